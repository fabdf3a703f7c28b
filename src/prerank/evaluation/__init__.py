"""Metrics, and evaluation by the served path."""
