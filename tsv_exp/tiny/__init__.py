"""The embedded benchmark: a small CLIP and 20 image tasks that need no download."""
