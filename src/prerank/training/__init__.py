"""One training loop for every model: losses, checkpoints, exact resume."""
