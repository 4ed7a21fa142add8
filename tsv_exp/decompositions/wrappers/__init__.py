"""Algebras around another one: its results from a cache, or its calls of several layers in one batch.

The decompositions themselves are in the folder above.
"""
