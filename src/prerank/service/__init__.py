"""A published directory as an HTTP service: from bytes to bytes."""
