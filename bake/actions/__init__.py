"""The public verbs: bake, verify, push, and conversations."""
