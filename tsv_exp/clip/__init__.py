"""CLIP's image encoders on the benchmark of 8, 14 and 20 tasks, from the hub or local folders."""
