"""Data: vector sets and their registry. No logic."""
