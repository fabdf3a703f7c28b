"""The tables and figures of both papers, run again: small declarations, one runner, JSON, tables and plots from it."""
