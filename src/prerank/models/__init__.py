"""Pre-ranking models on one contract."""
