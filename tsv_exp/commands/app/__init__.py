"""Shared code of the commands: composition by Hydra, error handling, exit codes.

Each command has its own file in commands/.
"""
