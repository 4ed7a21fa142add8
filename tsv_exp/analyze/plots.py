"""The plots of an analysis."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from tsv_exp.analyze.analysis import Analysis
from tsv_exp.analyze.measures import LayerMeasures
from tsv_exp.report.plots.hover import note
from tsv_exp.report.plots.style import NARROW, NEUTRAL, entitle, figure, line_styles, locator, readable_on

ACROSS = 3  # panels in a row
FLOOR = 1e-4  # singular values below this share of the largest are not drawn
WRITTEN = 12  # heatmaps of more tasks than this (on a phone half of it) have no numbers in their cells
LETTERS = 28  # of a layer's name on a phone
LETTER = 0.07  # inches that a letter of a layer's name takes, at font size 8


def draw(analysis: Analysis, narrow: bool = False) -> Iterator[tuple[str, Figure]]:
    """File name and figure of every plot; `narrow`: layout for phones, with stacked panels."""
    yield "interference-by-layer", by_layer(analysis, narrow)
    yield "layers-by-tasks", layers_by_tasks(analysis, narrow)
    if any(layer.spectra.any() for layer in analysis.layers):
        yield "spectra", spectra(analysis, narrow)
    if len(analysis.tasks) > 1:
        yield "pairs", pairs(analysis, narrow)


def _two(width: float, height: float, narrow: bool) -> tuple[Figure, Axes, Axes]:
    """A figure with two panels that share their rows; `height` is of one."""
    fig = figure(NARROW if narrow else width, (2 if narrow else 1) * height)
    first, second = fig.subplots(*((2, 1) if narrow else (1, 2)), sharey=True)
    return fig, first, second


def by_layer(analysis: Analysis, narrow: bool = False) -> Figure:
    """Bars: STI of every layer, absolute and relative to its Σσ."""
    layers = analysis.changed
    width = 7 + LETTER * max(len(layer.name) for layer in layers)
    fig, left, right = _two(width, 1.9 + 0.24 * len(layers), narrow)
    relative = [layer.interference / layer.strength if layer.strength else 0.0 for layer in layers]
    for axes, values, name in ((left, [layer.interference for layer in layers], "STI"), (right, relative, "STI / Σσ")):
        axes.barh(range(len(layers)), values, color=NEUTRAL)  # a colour is a task's
        note(axes, ((value, y, f"{layers[y].name}: {name} {value:.4g}") for y, value in enumerate(values)))
        axes.set_yticks(
            range(len(layers)), [_short(layer.name, narrow) for layer in layers], fontsize=7 if narrow else 8
        )
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.set_xlabel(name)
        axes.xaxis.set_major_locator(locator(5))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    entitle(fig, f"Singular Task Interference of {len(analysis.tasks)} tasks, by layer")
    return fig


def _short(name: str, narrow: bool) -> str:
    """A layer's name; on a phone only its end."""
    return f"…{name[-LETTERS:]}" if narrow and len(name) > LETTERS else name


def layers_by_tasks(analysis: Analysis, narrow: bool = False) -> Figure:
    """Heatmaps of layers by tasks: energy kept at k, and stable rank."""
    layers, tasks = analysis.changed, analysis.tasks
    labels = [_short(layer.name, narrow) if narrow else f"{layer.name}  (k = {layer.k})" for layer in layers]
    panel = max(2.6, 0.8 + _cell(tasks) * len(tasks))  # room for its title and its scale
    fig, left, right = _two(LETTER * max(map(len, labels)) + 2 * panel, 1.9 + 0.26 * len(layers), narrow)
    energy, ranks = (torch.stack([getattr(layer, name) for layer in layers]) for name in ("energy", "stable_rank"))
    names = [layer.name for layer in layers]
    _heat(left, energy, Scale("energy in the top k (share)", "viridis", ".2f", 0.0, 1.0), names, tasks)
    _heat(right, ranks, Scale("stable rank", "magma", ".1f", 0.0), names, tasks)
    for axes in (left, right):
        axes.set_yticks(range(len(layers)), labels, fontsize=7 if narrow else 8)
        axes.set_xticks(range(len(tasks)), tasks, rotation=90)
    entitle(fig, "Low rank of the task matrices, by layer and task")
    return fig


def spectra(analysis: Analysis, narrow: bool = False) -> Figure:
    """One panel per layer type: singular values relative to the largest, per task, averaged over the layers."""
    kinds = analysis.kinds
    across = 1 if narrow else min(ACROSS, len(kinds))
    down = -(-len(kinds) // across)
    below = 0.2 * len(analysis.tasks) if narrow else 0.0
    fig = figure(NARROW if narrow else 3.6 * across + 1.6, 2.7 * down + 0.9 + below)
    panels = list(fig.subplots(down, across, squeeze=False).flat)
    styles = {task: look | {"marker": "", "linewidth": 1.2} for task, look in line_styles(analysis.tasks).items()}
    for axes, (kind, layers) in zip(panels, kinds.items(), strict=False):
        _spectra(axes, layers, analysis.tasks, styles)
        axes.set_title(_short(kind, narrow), fontsize=8)
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center" if narrow else "outside right center", fontsize=8)
    entitle(fig, "Singular values of the task matrices (dotted: k)")
    return fig


def _spectra(axes: Axes, layers: Sequence[LayerMeasures], tasks: Sequence[str], styles: dict[str, dict]) -> None:
    for i, task in enumerate(tasks):
        changed = [layer.spectra[i] / layer.spectra[i, 0] for layer in layers if layer.spectra[i, 0] > 0]
        if changed:
            values = torch.stack(changed).mean(0)
            axes.plot(range(1, len(values) + 1), values.where(values > FLOOR, torch.nan), label=task, **styles[task])
        else:
            axes.plot([], [], label=task, **styles[task])
    axes.axvline(layers[0].k, color="#8A8A8A", linestyle=":", linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("index j")
    axes.set_ylabel("σ_j / σ_1")
    axes.grid(True)


def pairs(analysis: Analysis, narrow: bool = False) -> Figure:
    """Heatmaps of tasks by tasks: overlap left and right, cosine similarity, STI of the pair."""
    tasks = analysis.tasks
    side = 1.9 + _cell(tasks) * len(tasks)
    fig = figure(NARROW, 4 * min(side, NARROW) + 0.6) if narrow else figure(2 * side + 1.4, 2 * side + 0.6)
    panels = fig.subplots(*((4, 1) if narrow else (2, 2)), sharex=True, sharey=True)
    matrices = (
        (analysis.overlap("left"), Scale("overlap left, mean over layers", "viridis", ".2f", 0.0)),
        (analysis.overlap("right"), Scale("overlap right, mean over layers", "viridis", ".2f", 0.0)),
        (analysis.cosines, Scale("cosine similarity of task vectors", "RdBu_r", ".3f")),
        (analysis.pairs, Scale("STI / Σσ of the two alone", "magma", ".2f", 0.0)),
    )
    for axes, (matrix, scale) in zip(panels.flat, matrices, strict=True):
        _heat(axes, matrix.clone().fill_diagonal_(torch.nan), scale, tasks, tasks)
        axes.set_xticks(range(len(tasks)), tasks, rotation=90)
        axes.set_yticks(range(len(tasks)), tasks)
    entitle(fig, "Pairs of tasks (grey: a task with itself)")
    return fig


def _cell(tasks: Sequence[str]) -> float:
    """The width of a cell in inches: with or without a figure in it."""
    return 0.38 if len(tasks) <= WRITTEN else 0.22


@dataclass(frozen=True)
class Scale:
    """How a heatmap shows its values: from `low` to `high` (None: the largest); without `low` from −x to x."""

    title: str
    colours: str
    digits: str
    low: float | None = None
    high: float | None = None

    def limits(self, known: Tensor) -> tuple[float, float]:
        """Both ends: natural ones, so that values close to each other have colours close to each other."""
        largest = float(known.abs().max()) if len(known) else 1.0
        high = self.high if self.high is not None else (largest or 1.0)
        return (-high if self.low is None else self.low), high


def _heat(axes: Axes, values: Tensor, scale: Scale, rows: Sequence[str], columns: Sequence[str]) -> None:
    """A heatmap with numbers in its cells if there is space; missing values are grey."""
    shown = values.double().cpu()
    low, high = scale.limits(shown[shown.isfinite()])
    colours = colormaps[scale.colours].with_extremes(bad=NEUTRAL)
    image = axes.imshow(shown.tolist(), aspect="auto", cmap=colours, vmin=low, vmax=high)
    axes.set_title(scale.title, fontsize=9)
    axes.tick_params(length=0)
    for y, row in enumerate(shown.tolist()):
        for x, value in enumerate(row):
            if value == value:
                note(axes, [(x, y, f"{rows[y]}, {columns[x]}: {value:.4g}")])
                if shown.shape[1] <= (WRITTEN if axes.figure.figure.get_figwidth() > NARROW else WRITTEN // 2):
                    ink = readable_on(tuple(image.cmap(image.norm(value))))
                    axes.text(x, y, f"{value:{scale.digits}}", ha="center", va="center", fontsize=7, color=ink)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, format=ScalarFormatter(useOffset=False))
