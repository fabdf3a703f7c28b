"""prerank: pre-ranking models from raw logs to a served answer."""

__version__ = "0.1.0"
