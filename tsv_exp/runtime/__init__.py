"""What the machine gives: console, devices, threads, processes, imports, messages of failures.

Nothing here knows of models, merging or files.
"""
