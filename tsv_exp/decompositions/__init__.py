"""Truncated singular value decompositions and polar factors: exact, fast and certified, cached, batched.

This room works on plain matrices. Layers, tasks and methods are in the rooms above.
"""
