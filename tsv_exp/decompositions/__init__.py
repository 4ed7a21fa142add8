"""Truncated singular value decompositions and polar factors: exact, fast and certified, cached, batched.

They know matrices only; layers, tasks and methods are above.
"""
