"""File formats of vector sets."""
