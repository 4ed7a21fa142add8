"""Tables in Markdown."""

from collections.abc import Iterable


def table_row(cells: Iterable[str]) -> str:
    """A row of a table in Markdown; bars and ends of lines in a cell do not end it."""
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"
