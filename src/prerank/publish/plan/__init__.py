"""Serving plans: the same logits as a model's own functions, computed from folded weights."""
