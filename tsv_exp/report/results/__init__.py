"""Run folders as they were read: cells, runs, what a sweep planned, what papers published.

Nothing here formats or draws.
"""
