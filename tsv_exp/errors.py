"""The one exception that users are meant to see."""


class UserError(Exception):
    """Something the user can mend: its message is one line naming the file, key or option, and the remedy."""
