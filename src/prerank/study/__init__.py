"""Comparisons, tables and reports."""
