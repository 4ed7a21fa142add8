"""The exception for errors that users can correct, and the known word that they may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """An error that the user can correct: one line with the file, key or option, and the remedy."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question about the nearest known word, with a space after it; empty if none is near. Case is ignored."""
    folded = {name.casefold(): name for name in reversed(list(known))}
    close = get_close_matches(word.casefold(), list(folded), n=1, cutoff=0.7)
    return f"did you mean {folded[close[0]]}? " if close else ""
