"""Labels of runs: the name, tags and notes of experiments, each once."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tsv_exp.report.results.cells import Cell, Words


@dataclass(frozen=True)
class Experiment:
    """Runs with the same name, tags and notes; at least one of these is given."""

    words: Words
    runs: int

    def __str__(self) -> str:
        """One line: name (number of runs), tags, notes."""
        count = "1 run" if self.runs == 1 else f"{self.runs} runs"
        return f"{described(self.words)} ({count})"


def described(words: Words) -> str:
    """Name, tags and notes in one line; empty without any."""
    tags = f"tags: {', '.join(words.tags)}" if words.tags else ""
    return "; ".join(filter(None, (words.name, tags, words.notes)))


def experiments(cells: Iterable[Cell]) -> tuple[Experiment, ...]:
    """The experiments that these cells belong to, in the order in which they ran; cells without words are left out."""
    counts = Counter(cell.words for cell in cells if described(cell.words))
    return tuple(Experiment(words, runs) for words, runs in counts.items())
