"""The mixing desk: hear two moods of a model side by side, see what they cost, and bake one. Its page is in `page/`."""
