"""Rankers: the next stage of a cascade and the upper reference in the papers' tables, on the same contract."""
