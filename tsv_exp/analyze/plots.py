"""The plots of an analysis."""

from collections.abc import Iterator, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

from tsv_exp.analyze.analysis import Analysis
from tsv_exp.analyze.measures import LayerMeasures
from tsv_exp.report.plots.style import PALETTE, entitle, figure, line_styles

ACROSS = 3  # panels in a row
FLOOR = 1e-4  # singular values below this share of the largest are not drawn
WRITTEN = 12  # heatmaps of more tasks than this have no numbers in their cells
SPAN = 0.02  # the least range of a heatmap's colours, relative to its largest value: below it, rounding shows
LETTER = 0.07  # inches that a letter of a layer's name takes, at font size 8


def draw(analysis: Analysis) -> Iterator[tuple[str, Figure]]:
    """File name and figure of every picture."""
    yield "interference-by-layer", by_layer(analysis)
    yield "layers-by-tasks", layers_by_tasks(analysis)
    if any(layer.spectra.any() for layer in analysis.layers):
        yield "spectra", spectra(analysis)
    if len(analysis.tasks) > 1:
        yield "pairs", pairs(analysis)


def by_layer(analysis: Analysis) -> Figure:
    """Bars: STI of every layer, absolute and relative to its Σσ, coloured by layer type."""
    layers, kinds = analysis.changed, list(analysis.kinds)
    fig = figure(7 + LETTER * max(len(layer.name) for layer in layers), 1.9 + 0.24 * len(layers))
    left, right = fig.subplots(1, 2, sharey=True)
    colours = [PALETTE[kinds.index(layer.kind) % len(PALETTE)] for layer in layers]
    relative = [layer.interference / layer.strength if layer.strength else 0.0 for layer in layers]
    left.barh(range(len(layers)), [layer.interference for layer in layers], color=colours)
    right.barh(range(len(layers)), relative, color=colours)
    left.set_yticks(range(len(layers)), [layer.name for layer in layers], fontsize=8)
    left.set_ylim(len(layers) - 0.4, -0.6)
    left.set_xlabel("STI")
    right.set_xlabel("STI / Σσ")
    for axes in (left, right):
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    entitle(fig, f"Singular Task Interference of {len(analysis.tasks)} tasks, by layer")
    return fig


def layers_by_tasks(analysis: Analysis) -> Figure:
    """Heatmaps of layers by tasks: energy kept at k, and stable rank."""
    layers, tasks = analysis.changed, analysis.tasks
    labels = [f"{layer.name}  (k = {layer.k})" for layer in layers]
    panel = max(2.6, 0.8 + _cell(tasks) * len(tasks))  # room for its title and its scale
    fig = figure(LETTER * max(map(len, labels)) + 2 * panel, 1.9 + 0.26 * len(layers))
    left, right = fig.subplots(1, 2, sharey=True)
    _heat(left, torch.stack([layer.energy for layer in layers]), "energy in the top k (share)", "viridis", ".2f")
    _heat(right, torch.stack([layer.stable_rank for layer in layers]), "stable rank", "magma", ".1f")
    left.set_yticks(range(len(layers)), labels, fontsize=8)
    for axes in (left, right):
        axes.set_xticks(range(len(tasks)), tasks, rotation=90)
    entitle(fig, "Low rank of the task matrices, by layer and task")
    return fig


def spectra(analysis: Analysis) -> Figure:
    """One panel per layer type: singular values relative to the largest, per task, averaged over the layers."""
    kinds = analysis.kinds
    down = -(-len(kinds) // ACROSS)
    fig = figure(3.6 * min(ACROSS, len(kinds)) + 1.6, 2.7 * down + 0.9)
    panels = list(fig.subplots(down, min(ACROSS, len(kinds)), squeeze=False).flat)
    styles = {task: look | {"marker": "", "linewidth": 1.2} for task, look in line_styles(analysis.tasks).items()}
    for axes, (kind, layers) in zip(panels, kinds.items(), strict=False):
        _spectra(axes, layers, analysis.tasks, styles)
        axes.set_title(kind, fontsize=8)
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", fontsize=8)
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


def pairs(analysis: Analysis) -> Figure:
    """Heatmaps of tasks by tasks: overlap left and right, cosine similarity, STI of the pair."""
    tasks = analysis.tasks
    side = 1.9 + _cell(tasks) * len(tasks)
    fig = figure(2 * side + 1.4, 2 * side + 0.4)
    panels = fig.subplots(2, 2, sharex=True, sharey=True)
    matrices = (
        ("overlap left, mean over layers", analysis.overlap("left"), "viridis", ".2f"),
        ("overlap right, mean over layers", analysis.overlap("right"), "viridis", ".2f"),
        ("cosine similarity of task vectors", analysis.cosines, "cividis", ".3f"),
        ("STI / Σσ of the two alone", analysis.pairs, "magma", ".2f"),
    )
    for axes, (title, matrix, colours, digits) in zip(panels.flat, matrices, strict=True):
        _heat(axes, matrix.clone().fill_diagonal_(torch.nan), title, colours, digits)
        axes.set_xticks(range(len(tasks)), tasks, rotation=90)
        axes.set_yticks(range(len(tasks)), tasks)
    entitle(fig, "Pairs of tasks")
    return fig


def _cell(tasks: Sequence[str]) -> float:
    """The width of a cell in inches: with or without a number in it."""
    return 0.38 if len(tasks) <= WRITTEN else 0.22


def _heat(axes: Axes, values: Tensor, title: str, colours: str, digits: str) -> None:
    """A heatmap with numbers in its cells if they fit."""
    shown = values.double().cpu()
    known = shown[shown.isfinite()]
    middle, reach = float(known.max() + known.min()) / 2, float(known.max() - known.min()) / 2
    reach = max(reach, SPAN / 2 * float(known.abs().max()))
    image = axes.imshow(shown.tolist(), aspect="auto", cmap=colours, vmin=middle - reach, vmax=middle + reach)
    axes.set_title(title, fontsize=9)
    axes.tick_params(length=0)
    if shown.shape[1] <= WRITTEN:
        for y, row in enumerate(shown.tolist()):
            for x, value in enumerate(row):
                if value == value:
                    red, green, blue, _ = image.cmap(image.norm(value))
                    ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"
                    axes.text(x, y, f"{value:{digits}}", ha="center", va="center", fontsize=6.5, color=ink)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, format=ScalarFormatter(useOffset=False))
