"""Weights in: lazy readers of the formats in use, and the mapping of other libraries' names."""
