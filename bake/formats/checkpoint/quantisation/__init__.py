"""Quantised checkpoints: which method, how it stores a linear module, and which stacks load it."""
