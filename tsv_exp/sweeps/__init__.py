"""What surrounds single runs: reuse of finished cells, jobs side by side, progress, the report at the end.

A single run's flow is run.py.
"""
