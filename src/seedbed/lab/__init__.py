"""Experiments: what a signal is worth, on any model, with intervals."""
