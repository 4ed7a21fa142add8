"""An analysis as tables: sheets for people, rows for programs."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from tsv_exp.analyze.analysis import Analysis, Proposal
from tsv_exp.analyze.measures import LayerMeasures
from tsv_exp.report.sheets import Entry, Line, Sheet

SECTION = "Interference"
SHOWN = 10  # proposals in the table
LEGEND = (
    "STI: Singular Task Interference of the tasks' top k singular components (arXiv 2412.00081), summed over layers; "
    "Σσ: their singular values; energy at k: share of ‖Δ‖² in them; stable rank: ‖Δ‖² / σ_1²; overlap: "
    "‖U_iᵀU_j‖² / k, the mean over pairs of tasks; by chance: what random subspaces would have. "
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
    headings = ("k", *(heading for heading, _ in COLUMNS))
    found = [
        Sheet(SECTION, "By layer type", headings, (*kinds, total), LEGEND, len(headings), first="layers"),
        Sheet(SECTION, "By layer", headings, (*layers, total), LEGEND, len(headings), first="layer"),
    ]
    if len(analysis.tasks) > 1:
        lines = tuple(Line(f"{a}, {b}", tuple(map(_number, values))) for a, b, *values in pairs(analysis))
        found.append(Sheet(SECTION, "By pair of tasks", PAIR_HEADINGS, lines, PAIRS, len(PAIR_HEADINGS), first="tasks"))
    return ([_selection(proposals)] if proposals else []) + found


def _selection(proposals: Sequence[Proposal]) -> Sheet:
    best, middle, worst = proposals[0], proposals[len(proposals) // 2], proposals[-1]
    lines = [Line(", ".join(found.tasks), (_number(found.score),)) for found in proposals[:SHOWN]]
    legend = (
        f"The least of {len(proposals)} choices of {len(best.tasks)} tasks; score: STI of the pairs / Σσ of the tasks; "
        f"median {middle.score:.4g}, largest {worst.score:.4g} ({', '.join(worst.tasks)})."
    )
    return Sheet(SECTION, "Tasks that interfere least", ("score",), tuple(lines), legend, 1, first="tasks")


def _line(label: str, layers: Sequence[LayerMeasures]) -> Line:
    ks = sorted({layer.k for layer in layers})
    k = Entry("–".join(map(str, dict.fromkeys((ks[0], ks[-1])))), value=ks[0])
    return Line(label, (k, *(_number(value(layers)) for _, value in COLUMNS)))


def _number(value: float) -> Entry:
    return Entry(f"{value:.4g}", value=value)


PAIR_HEADINGS = ("cosine", "overlap left", "overlap right", "STI / Σσ")


def pairs(analysis: Analysis) -> Iterator[tuple[Any, ...]]:
    """Two tasks and their figures, in the order of PAIR_HEADINGS."""
    matrices = analysis.cosines, analysis.overlap("left"), analysis.overlap("right"), analysis.pairs
    for i, first in enumerate(analysis.tasks):
        for j, second in enumerate(analysis.tasks[:i]):
            yield second, first, *(float(matrix[i, j]) for matrix in matrices)


def layers_csv(analysis: Analysis) -> str:
    """One row per layer."""
    return _csv(
        ("layer", "type", "rows", "columns", "k", *(heading for heading, _ in COLUMNS)),
        (
            (layer.name, layer.kind, *layer.shape, layer.k, *(value([layer]) for _, value in COLUMNS))
            for layer in analysis.layers
        ),
    )


def tasks_csv(analysis: Analysis) -> str:
    """One row per layer and task."""
    return _csv(
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
    return _csv(
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
    return _csv(("task", "other task", *PAIR_HEADINGS), pairs(analysis))


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean."""
    listed = list(values)
    return sum(listed) / len(listed)


Column = tuple[str, Callable[[Sequence[LayerMeasures]], float]]
COLUMNS: tuple[Column, ...] = (
    ("STI", lambda layers: sum(layer.interference for layer in layers)),
    ("Σσ", lambda layers: sum(layer.strength for layer in layers)),
    ("STI / Σσ", lambda layers: _relative(layers)),
    ("energy at k", lambda layers: mean(float(layer.energy.mean()) for layer in layers)),
    ("stable rank", lambda layers: mean(float(layer.stable_rank.mean()) for layer in layers)),
    ("overlap left", lambda layers: mean(_off_diagonal(layer.left) for layer in layers)),
    ("left by chance", lambda layers: mean(layer.k / layer.shape[0] for layer in layers)),
    ("overlap right", lambda layers: mean(_off_diagonal(layer.right) for layer in layers)),
    ("right by chance", lambda layers: mean(layer.k / layer.shape[1] for layer in layers)),
)


def _relative(layers: Sequence[LayerMeasures]) -> float:
    strength = sum(layer.strength for layer in layers)
    return sum(layer.interference for layer in layers) / strength if strength else 0.0


def _off_diagonal(matrix: Tensor) -> float:
    """The mean over pairs of different tasks; 0 for a single one."""
    tasks = len(matrix)
    return float((matrix.sum() - matrix.diagonal().sum()) / (tasks * (tasks - 1))) if tasks > 1 else 0.0
