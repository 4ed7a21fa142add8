"""Weights in and out: lazy readers of the formats in use, other libraries' names, a sharded writer."""
