"""Maps: accuracy over α and rank fraction, and which task a router chooses."""

from collections.abc import Sequence
from itertools import pairwise

from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tsv_exp.report.plots.curves import ON_VALIDATION, RANK, curve
from tsv_exp.report.plots.hover import note
from tsv_exp.report.plots.style import NARROW, entitle, figure, locator, readable_on
from tsv_exp.report.tables.groups import Group, Row

SPAN = 10.0  # smallest range of a colour map in points


def alpha_rank_map(group: Group, name: str, rows: Sequence[Row], narrow: bool = False) -> Figure:
    """Validation accuracy over α and rank fraction, with the best combination marked; the α axis is to scale."""
    curves = [curve(row) for row in rows]
    values = [100 * value for points in curves for value in points.values()]
    fig = figure(NARROW if narrow else 9, 1.6 + 0.32 * len(rows))
    axes = fig.subplots()
    # a minimum range, so that small differences have similar colours
    scale = Normalize(min(min(values), max(values) - SPAN), max(values))
    alike = len({tuple(points) for points in curves}) == 1
    for y, points in enumerate(curves):
        row = [[100 * value for value in points.values()]]
        mesh = axes.pcolormesh(_edges(list(points)), [y - 0.5, y + 0.5], row, norm=scale, cmap="viridis")
        if not alike:
            axes.plot(list(points), [y] * len(points), ".", color="white", markeredgecolor="black", markersize=3)
        fraction = f"rank fraction {rows[y].params[RANK]:.3g}"
        note(axes, ((alpha, y, f"{fraction}, α {alpha:.4g}: {100 * value:.2f} %") for alpha, value in points.items()))
    half = min(right - left for points in curves for left, right in pairwise(points)) / 2
    axes.set_xlim(min(min(points) for points in curves) - half, max(max(points) for points in curves) + half)
    axes.set_yticks(range(len(rows)), [f"{row.params[RANK]:.3g}" for row in rows])
    axes.xaxis.set_major_locator(locator())
    best = max((value, -y, -alpha) for y, points in enumerate(curves) for alpha, value in points.items())
    axes.plot(-best[2], -best[1], "*", markersize=14, color="white", markeredgecolor="black")
    axes.set_xlabel("α, scaling of the merged task vector" + ("" if alike else " (dots: scored; empty: not scored)"))
    axes.set_ylabel("rank fraction")
    fig.colorbar(mesh, label=ON_VALIDATION)
    entitle(fig, f"{name}: {group.title} (★ best on validation)")
    return fig


def confusion_map(group: Group, row: Row, narrow: bool = False) -> Figure:
    """The share of each task's examples (rows) that a router sends to each task (columns), in percent."""
    count = len(group.tasks)
    shares = [[100 * row.chosen(task, other) for other in group.tasks] for task in group.tasks]
    fig = figure(NARROW if narrow else 2.6 + 0.42 * count, 1.9 + (0.22 if narrow else 0.4) * count)
    axes = fig.subplots()
    image = axes.imshow(shares, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    for y, x in ((y, x) for y in range(count) for x in range(count)):
        value = shares[y][x]
        if value >= 0.5 and not narrow:
            ink = readable_on(colormaps["viridis"](value / 100))
            axes.text(x, y, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=8)
        note(axes, [(x, y, f"{group.tasks[y]} routed to {group.tasks[x]}: {value:.2f} %")])
    axes.set_xticks(range(count), group.tasks, rotation=90, fontsize=8)
    axes.set_yticks(range(count), group.tasks, fontsize=8)
    axes.set_xlabel("chosen task")
    axes.set_ylabel("task")
    fig.colorbar(image, label="test examples (%)")
    entitle(fig, f"Chosen tasks of {row.label}: {group.title}")
    return fig


def _edges(values: Sequence[float]) -> list[float]:
    """The edges of cells around ascending values: half-way between them."""
    between = [(left + right) / 2 for left, right in pairwise(values)]
    return [2 * values[0] - between[0], *between, 2 * values[-1] - between[-1]]
