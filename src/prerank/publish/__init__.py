"""Bundles and item stores: hashed, pickle-free, published atomically."""
