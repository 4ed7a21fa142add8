"""Reads run folders: cells, runs, planned runs of a sweep, and published results.

Nothing here formats or draws.
"""
