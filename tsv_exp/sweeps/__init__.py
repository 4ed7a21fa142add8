"""Sweeps: reuse of finished cells, jobs in parallel, progress, the report at the end.

The flow of a single run is in run.py.
"""
