"""An analysis as tables: sheets for people, rows for programs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from tsv_exp.analyze.analysis import Analysis, Proposal
from tsv_exp.analyze.measures import LayerMeasures
from tsv_exp.report.tables.formats.csv_text import csv_text
from tsv_exp.report.tables.sheets import Entry, Line, Sheet

SECTION = "Interference"
SHOWN = 10  # proposals in the table
PAIRS_SHOWN = 30
LEGEND = (
    "STI: Singular Task Interference of the tasks' top k singular components (arXiv 2412.00081), summed over layers; "
    "Σσ: their singular values; energy at k: share of ‖Δ‖² in them; stable rank: ‖Δ‖² / σ_1²; overlap: "
    "‖U_iᵀU_j‖² / k (k: at most the smaller rank), the mean over pairs of tasks; in parentheses: what random subspaces "
    "would have. "
    "All but the sums are means over layers and tasks. Matrices that no task changed are left out."
)
PAIRS = (
    "Cosine similarity of the whole task vectors; overlap of the spans of their top singular vectors, mean over "
    "layers; STI of the two tasks alone, relative to their Σσ."
)


def sheets(analysis: Analysis, proposals: Sequence[Proposal] = ()) -> list[Sheet]:
    """By layer type, by layer, by pair of tasks, and the proposed selection."""
    total = _line("all layers", analysis.changed)
    kinds = [_line(kind, layers) for kind, layers in analysis.kinds.items()]
    layers = [_line(layer.name, [layer]) for layer in analysis.changed]
    headings = ("k", *(heading for heading, _ in COLUMNS if heading not in CHANCE.values()))
    found = [
        Sheet(SECTION, "By layer type", headings, (*kinds, total), LEGEND, KEPT, first="layers"),
        Sheet(SECTION, "By layer", headings, (*layers, total), LEGEND, KEPT, first="layer"),
    ]
    if len(analysis.tasks) > 1:
        found.append(_pairs(analysis))
    return ([_selection(proposals)] if proposals else []) + found


def _pairs(analysis: Analysis) -> Sheet:
    ordered = sorted(pairs(analysis), key=lambda row: -row[-1])
    lines = tuple(Line(f"{a}, {b}", tuple(map(_number, values))) for a, b, *values in ordered[:PAIRS_SHOWN])
    some = f"The {len(lines)} of {len(ordered)} pairs that interfere most (pairs.csv has all). "
    legend = some * (len(lines) < len(ordered)) + PAIRS
    return Sheet(SECTION, "By pair of tasks", PAIR_HEADINGS, lines, legend, len(PAIR_HEADINGS), first="tasks")


def _selection(proposals: Sequence[Proposal]) -> Sheet:
    best, middle, worst = proposals[0], proposals[len(proposals) // 2], proposals[-1]
    lines = [Line(", ".join(found.tasks), (_number(found.score),)) for found in proposals[:SHOWN]]
    legend = (
        f"The least of {len(proposals)} choices of {len(best.tasks)} tasks; score: STI of the pairs / Σσ of the tasks; "
        f"median {rounded(middle.score)}, largest {rounded(worst.score)} ({', '.join(worst.tasks)})."
    )
    return Sheet(SECTION, "Tasks that interfere least", ("score",), tuple(lines), legend, 1, first="tasks")


def _line(label: str, layers: Sequence[LayerMeasures]) -> Line:
    ks = sorted({layer.k for layer in layers})
    k = Entry(f"{ks[0]}–{ks[-1]}") if len(ks) > 1 else Entry(f"{ks[0]}", value=ks[0])
    figures = {heading: value(layers) for heading, value in COLUMNS}
    chance = {heading: figures.pop(other) for heading, other in CHANCE.items()}
    return Line(label, (k, *(_number(value, chance.get(heading)) for heading, value in figures.items())))


def _number(value: float, chance: float | None = None) -> Entry:
    return Entry(rounded(value) if chance is None else f"{value:.3f} ({chance:.3f})", value=value)


def rounded(value: float) -> str:
    """Four significant digits, and all digits before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


PAIR_HEADINGS = ("cosine", "overlap left", "overlap right", "STI / Σσ")


def pairs(analysis: Analysis) -> Iterator[tuple[Any, ...]]:
    """Two tasks and their measures, in the order of PAIR_HEADINGS."""
    matrices = analysis.cosines, analysis.overlap("left"), analysis.overlap("right"), analysis.pairs
    for i, first in enumerate(analysis.tasks):
        for j, second in enumerate(analysis.tasks[:i]):
            yield second, first, *(float(matrix[i, j]) for matrix in matrices)


def layers_csv(analysis: Analysis) -> str:
    """One row per layer."""
    return csv_text(
        ("layer", "type", "rows", "columns", "k", *(heading for heading, _ in COLUMNS)),
        (
            (layer.name, layer.kind, *layer.shape, layer.k, *(value([layer]) for _, value in COLUMNS))
            for layer in analysis.layers
        ),
    )


def tasks_csv(analysis: Analysis) -> str:
    """One row per layer and task."""
    return csv_text(
        ("layer", "task", "norm", "largest singular value", "energy at k", "stable rank", "sum at k"),
        (
            (layer.name, task, float(layer.spectra[i].norm()), float(layer.spectra[i, 0]), *figures)
            for layer in analysis.layers
            for i, (task, *figures) in enumerate(
                zip(
                    analysis.tasks,
                    layer.energy.tolist(),
                    layer.stable_rank.tolist(),
                    layer.strengths.tolist(),
                    strict=True,
                )
            )
        ),
    )


def spectra_csv(analysis: Analysis) -> str:
    """One row per layer, task and singular value."""
    return csv_text(
        ("layer", "task", "index", "singular value"),
        (
            (layer.name, task, index, value)
            for layer in analysis.layers
            for task, values in zip(analysis.tasks, layer.spectra.tolist(), strict=True)
            for index, value in enumerate(values, start=1)
        ),
    )


def pairs_csv(analysis: Analysis) -> str:
    """One row per pair of tasks."""
    return csv_text(("task", "other task", *PAIR_HEADINGS), pairs(analysis))


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean."""
    listed = list(values)
    return sum(listed) / len(listed)


Column = tuple[str, Callable[[Sequence[LayerMeasures]], float]]
COLUMNS: tuple[Column, ...] = (
    ("energy at k", lambda layers: mean(float(layer.energy.mean()) for layer in layers)),
    ("stable rank", lambda layers: mean(float(layer.stable_rank.mean()) for layer in layers)),
    ("overlap left", lambda layers: mean(_off_diagonal(layer.left) for layer in layers)),
    ("left by chance", lambda layers: mean(layer.k / layer.shape[0] for layer in layers)),
    ("overlap right", lambda layers: mean(_off_diagonal(layer.right) for layer in layers)),
    ("right by chance", lambda layers: mean(layer.k / layer.shape[1] for layer in layers)),
    # last, because a narrow terminal drops what stands on the left
    ("STI", lambda layers: sum(layer.interference for layer in layers)),
    ("Σσ", lambda layers: sum(layer.strength for layer in layers)),
    ("STI / Σσ", lambda layers: _relative(layers)),
)
KEPT = 3  # of these in a narrow terminal
CHANCE = {"overlap left": "left by chance", "overlap right": "right by chance"}  # in one column of a sheet


def _relative(layers: Sequence[LayerMeasures]) -> float:
    strength = sum(layer.strength for layer in layers)
    return sum(layer.interference for layer in layers) / strength if strength else 0.0


def _off_diagonal(matrix: Tensor) -> float:
    """The mean over pairs of different tasks; 0 for a single one."""
    tasks = len(matrix)
    return float((matrix.sum() - matrix.diagonal().sum()) / (tasks * (tasks - 1))) if tasks > 1 else 0.0
