"""What the commands share: composition by Hydra, error handling, exit codes.

Each command has its own file in commands/.
"""
