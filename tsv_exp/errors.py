"""The exception for errors that users can correct."""


class UserError(Exception):
    """An error that the user can correct: one line with the file, key or option, and the remedy."""
