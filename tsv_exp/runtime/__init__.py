"""The runtime environment: console, devices, threads, processes, imports, error messages.

Nothing here depends on models, merging or file formats.
"""
