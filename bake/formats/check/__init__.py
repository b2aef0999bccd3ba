"""Verification of a finished output by its bytes, the same for every form."""
