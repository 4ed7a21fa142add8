"""Tables in Markdown."""

from collections.abc import Iterable


def table_row(cells: Iterable[str]) -> str:
    """A row of a table in Markdown; a bar in a cell does not end it."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
