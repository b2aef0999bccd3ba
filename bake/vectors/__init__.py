"""Emotion vector sets: finding, reading, changing, writing and sharing them."""
