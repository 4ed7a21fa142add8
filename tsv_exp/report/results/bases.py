"""Groups comparable runs: those that share weights, data and number format."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tsv_exp.report.results.cells import Cell, plain

SHORT = 6  # displayed characters of a digest


@dataclass
class Basis:
    """What the rows of one table share: each task's fine-tuned weights (per seed) and data, and the precision."""

    model: str
    family: str
    precision: str
    cells: list[Cell] = field(default_factory=list)
    facts: dict[tuple[Any, ...], str] = field(default_factory=dict)
    words: str = ""

    def takes(self, cell: Cell) -> bool:
        """Whether a finished cell is consistent with this basis and has the same recipe or the same weights."""
        if (cell.model, cell.family, cell.precision) != (self.model, self.family, self.precision):
            return False
        facts = _facts(cell)
        if any(self.facts.get(name, value) != value for name, value in facts.items()):
            return False
        shared = any(name[0] == "task" and self.facts.get(name) == value for name, value in facts.items())
        return shared or any(other.recipe == cell.recipe for other in self.cells)

    def add(self, cell: Cell) -> None:
        """Add a cell."""
        self.cells.append(cell)
        self.facts |= _facts(cell)

    def may_hold(self, cell: Cell) -> bool:
        """Whether a cell that failed before its weights were known may belong here."""
        alike = cell.model == self.model and cell.family in ("", self.family)
        return alike and any(not cell.recipe or cell.recipe == other.recipe for other in self.cells)


def _facts(cell: Cell) -> dict[tuple[Any, ...], str]:
    """Values that must be equal; weights are keyed by seed only if it is part of the model's configuration."""
    seeded = not cell.recipe or any("${seed}" in str(value) for value in cell.recipe.values())
    seed = cell.seed if seeded else None
    weights = {("base" if name == "base" else "task", name, seed): value for name, value in cell.digests.items()}
    return weights | {("data", name, None): value for name, value in cell.data.items()}


def find_bases(finished: Iterable[Cell]) -> list[Basis]:
    """The bases of these cells in order of first appearance, each with words that distinguish it."""
    bases: list[Basis] = []
    for cell in finished:
        basis = next((basis for basis in bases if basis.takes(cell)), None)
        if basis is None:
            basis = Basis(cell.model, cell.family, cell.precision)
            bases.append(basis)
        basis.add(cell)
    for source in dict.fromkeys((basis.model, basis.family) for basis in bases):
        _name([basis for basis in bases if (basis.model, basis.family) == source])
    return bases


def _name(bases: Sequence[Basis]) -> None:
    """Name the bases of one model by configuration values that differ from most runs, else by digests."""
    if len(bases) == 1:
        return
    described = [_described(basis) for basis in bases]
    names = dict.fromkeys(name for values in described for name in values)
    usual = {
        name: most_common(
            [values.get(name) for values, basis in zip(described, bases, strict=True) for _ in basis.cells]
        )
        for name in names
    }
    varying = [name for name in names if len({plain({"": values.get(name)}) for values in described}) > 1]
    for basis, values in zip(bases, described, strict=True):
        shown = [name for name in varying if (values.get(name),) != usual[name]]
        basis.words = ", ".join(f"{name.removeprefix('model.')} {values.get(name)}" for name in shown)
    for alike in [
        [one for one in bases if one.words == words] for words in dict.fromkeys(basis.words for basis in bases)
    ]:
        for basis in alike if len(alike) > 1 else ():
            basis.words = ", ".join(filter(None, [basis.words, _digest(basis, alike)]))


def _described(basis: Basis) -> dict[str, Any]:
    return {**basis.cells[0].recipe, "precision": basis.precision or None}


def _digest(basis: Basis, others: Sequence[Basis]) -> str:
    """A short form of the first fact that distinguishes a basis from the others."""
    for (kind, name, _), value in basis.facts.items():
        if any(_differs(other, kind, name, value) for other in others):
            return f"{'data' if kind == 'data' else 'weights'} {name} {value[:SHORT]}"
    return f"from run {basis.cells[0].folder.name}"


def _differs(other: Basis, kind: str, name: str, value: str) -> bool:
    values = {found for (what, whose, _), found in other.facts.items() if (what, whose) == (kind, name)}
    return bool(values) and value not in values


def most_common(values: Sequence[Any]) -> tuple[Any] | None:
    """The most common value, in a tuple; None on a tie."""
    texts = Counter(plain({"": value}) for value in values).most_common(2)
    if not texts or (len(texts) > 1 and texts[0][1] == texts[1][1]):
        return None
    return (next(value for value in values if plain({"": value}) == texts[0][0]),)
