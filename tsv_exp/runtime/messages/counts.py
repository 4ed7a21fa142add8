"""Numbers of things in messages: 1 file, 2 files."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun, which is `one` or `many`; by default `many` is `one` with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
