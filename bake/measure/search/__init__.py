"""A search for rows that raise an emotion more, and damage the model less, than the vectors as they were extracted."""
