"""Accuracy per method, on average and per task: dots on an axis that resolves differences of one point."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tsv_exp.report.plots.hover import note
from tsv_exp.report.plots.style import INK, NARROW, entitle, figure, locator
from tsv_exp.report.tables.groups import Estimate, Group, Row

Looks = Mapping[str, Mapping[str, Any]]

MERGED, PER_TASK, REFERENCE = "one merged model", "weights per task", "base model"
ROUTED = "weights per task, chosen by a router"
DOT: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 7, "markerfacecoloralt": "none"}
FILLS: dict[str, Any] = {MERGED: "full", PER_TASK: "none", ROUTED: "bottom", REFERENCE: "left"}
LEAST = 4.0  # smallest range of an axis in points of accuracy


def averages(group: Group, rows: Sequence[Row], looks: Looks, narrow: bool = False) -> Figure:
    """The average over the tasks per method, absolute and normalized."""
    height = 1.3 + 0.3 * len(rows)
    fig = figure(NARROW if narrow else 11, 2 * height + 0.6 if narrow else height + 0.6)
    left, right = fig.subplots(*((2, 1) if narrow else (1, 2)), sharey=True)
    _dots(left, rows, [row.average for row in rows], looks)
    _dots(right, rows, [row.normalized for row in rows], looks)
    left.set_title("absolute")
    right.set_title("normalized" if narrow else "normalized by the fine-tuned models")
    for axes in (left, right):
        axes.set_xlabel("accuracy (%)")
    _finish(fig, rows, f"Average test accuracy: {group.title}")
    return fig


def per_task(group: Group, rows: Sequence[Row], looks: Looks, narrow: bool = False) -> Figure:
    """One panel per task."""
    across = 1 if narrow else min(4, len(group.tasks))
    down = -(-len(group.tasks) // across)
    fig = figure(NARROW if narrow else 2.7 * across + 1.2, (0.8 + 0.22 * len(rows)) * down + 0.9)
    panels = fig.subplots(down, across, sharey=True, squeeze=False).flat
    for task, axes in zip(group.tasks, panels, strict=False):
        _dots(axes, rows, [row.task(task) for row in rows], looks)
        axes.set_title(task)
    for axes in list(panels):
        axes.set_visible(False)
    _finish(fig, rows, f"Test accuracy per task (%): {group.title}")
    return fig


def _dots(axes: Axes, rows: Sequence[Row], values: Sequence[Estimate | None], looks: Looks) -> None:
    ends = []
    alike: dict[tuple[Any, str], list[tuple[float, int, float]]] = {}  # one artist for all dots of one look
    for at, (row, value) in enumerate(zip(rows, values, strict=True)):
        if value is None:
            continue
        mean, spread = 100 * value.mean, nan if value.spread is None else 100 * value.spread
        reach = 0.0 if value.spread is None else spread
        ends += [mean - reach, mean + reach]
        alike.setdefault((looks[row.label]["color"], FILLS[_kind(row)]), []).append((mean, at, spread))
        where = (mean + reach, at)
        axes.annotate(f"{mean:.1f}", where, (6, 0), textcoords="offset points", va="center", fontsize=8)
        exact = f"{mean:.2f}" + ("" if value.spread is None else f" ± {spread:.2f}")
        note(axes, [(mean, at, f"{row.label}: {exact} %")])
    for (colour, fill), points in alike.items():
        means, heights, spreads = zip(*points, strict=True)
        style: dict[str, Any] = {"color": colour, "fillstyle": fill, "markerfacecoloralt": "none"}
        axes.errorbar(means, heights, xerr=spreads, fmt="o", markersize=7, ecolor=INK, elinewidth=1, capsize=2, **style)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=9)
    low, high = min(ends, default=0.0), max(ends, default=100.0)
    low, high = (low, high) if high - low >= LEAST else ((low + high - LEAST) / 2, (low + high + LEAST) / 2)
    axes.set_xlim(low - 0.06 * (high - low), high + 0.22 * (high - low))  # space for the number next to the last dot
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_locator(locator(6))
    axes.grid(True)
    axes.tick_params(axis="y", length=0)


def _kind(row: Row) -> str:
    if row.routed:
        return ROUTED
    return MERGED if row.merged else PER_TASK if row.per_task else REFERENCE


def _finish(fig: Figure, rows: Sequence[Row], title: str) -> None:
    entitle(fig, title)
    used = dict.fromkeys(_kind(row) for row in rows)
    handles = [Line2D([], [], label=kind, color=INK, fillstyle=FILLS[kind], **DOT) for kind in FILLS if kind in used]
    columns = len(handles) if fig.get_figwidth() > NARROW else 1
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9)
