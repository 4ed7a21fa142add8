"""Bars: accuracy per method, on average and per task."""

from collections.abc import Sequence
from math import isnan, nan

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tsv_exp.report.plots.style import INK, PER_TASK, REFERENCE, SINGLE, entitle, figure
from tsv_exp.report.tables.groups import Estimate, Group, Row

KINDS = {SINGLE: "one merged model", PER_TASK: "weights per task", REFERENCE: "base model"}


def averages(group: Group, rows: Sequence[Row]) -> Figure:
    """Horizontal bars: the average over the tasks per method, absolute and normalized."""
    fig = figure(9, 1.9 + 0.3 * len(rows))
    left, right = fig.subplots(1, 2, sharey=True)
    _bars(left, rows, [row.average for row in rows])
    _bars(right, rows, [row.normalized for row in rows])
    left.set_title("absolute")
    right.set_title("normalized by the fine-tuned models")
    for axes in (left, right):
        axes.set_xlabel("accuracy (%)")
    _finish(fig, rows, f"Average test accuracy: {group.title}")
    return fig


def per_task(group: Group, rows: Sequence[Row]) -> Figure:
    """One panel of horizontal bars per task."""
    across = min(4, len(group.tasks))
    down = -(-len(group.tasks) // across)
    fig = figure(2.6 * across + 1.2, (0.7 + 0.21 * len(rows)) * down + 0.9)
    panels = fig.subplots(down, across, sharey=True, squeeze=False).flat
    for task, axes in zip(group.tasks, panels, strict=False):
        _bars(axes, rows, [row.task(task) for row in rows])
        axes.set_title(task)
    for axes in list(panels):
        axes.set_visible(False)
    _finish(fig, rows, f"Test accuracy per task: {group.title}")
    return fig


def _bars(axes: Axes, rows: Sequence[Row], values: Sequence[Estimate | None]) -> None:
    means = [100 * value.mean if value else 0.0 for value in values]
    spreads = [100 * value.spread if value and value.spread is not None else nan for value in values]
    whiskers = {"ecolor": INK, "elinewidth": 1, "capsize": 2}
    axes.barh(range(len(rows)), means, xerr=spreads, color=[_kind(row) for row in rows], error_kw=whiskers)
    for at, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        axes.annotate(
            f"{mean:.1f}",
            (mean + (0 if isnan(spread) else spread), at),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_xlim(0, 115)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xticks(range(0, 101, 25))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _kind(row: Row) -> str:
    return SINGLE if row.merged else PER_TASK if row.per_task else REFERENCE


def _finish(fig: Figure, rows: Sequence[Row], title: str) -> None:
    entitle(fig, title)
    used = dict.fromkeys(_kind(row) for row in rows)
    handles = [Patch(color=colour, label=label) for colour, label in KINDS.items() if colour in used]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
