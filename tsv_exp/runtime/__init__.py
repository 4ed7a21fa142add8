"""What the machine gives: files, console, devices, threads, processes.

Nothing here knows of models or merging.
"""
