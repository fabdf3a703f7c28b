"""Several processes that answer, and the one that keeps them."""
