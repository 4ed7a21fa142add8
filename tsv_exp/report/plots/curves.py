"""Curves: accuracy as a function of α, rank fraction and the number of tasks."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import nan
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tsv_exp.report.plots.hover import note
from tsv_exp.report.plots.style import INK, NARROW, entitle, figure, legend_beside, line_styles, locator
from tsv_exp.report.tables.groups import Estimate, Group, Row
from tsv_exp.report.tables.labels import label

Looks = Mapping[str, Mapping[str, Any]]  # by the label of a row

RANK = "rank_fraction"
ON_VALIDATION = "validation accuracy relative\nto fine-tuned (%)"
CROWDED = 4  # methods with more settings than this get a panel and a colour map


def curve(row: Row) -> dict[float, float]:
    """α -> normalized validation accuracy, averaged over the seeds that scored it."""
    points: dict[float, list[float]] = {}
    for cell in row.cells:
        for point in cell.validation:
            points.setdefault(point["alpha"], []).append(point["mean_normalized"])
    return {alpha: fmean(points[alpha]) for alpha in sorted(points)}


def partial(row: Row) -> set[float]:
    """The values of α that were measured on fewer examples than others of their run, as a race drops them early."""
    found: set[float] = set()
    for cell in row.cells:
        most = max((point.get("examples", 0) for point in cell.validation), default=0)
        found |= {point["alpha"] for point in cell.validation if point.get("examples", most) < most}
    return found


def ranks(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that differ only in the rank fraction, grouped by their common name and sorted by rank fraction."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        alike = [_others(other) for other in rows if other.method == row.method]
        if isinstance(row.params.get(RANK), int | float):
            varying = {k: v for k, v in _others(row).items() if any(others.get(k) != v for others in alike)}
            families.setdefault(label(row.method, varying), []).append(row)
    return {name: sorted(m, key=lambda row: row.params[RANK]) for name, m in families.items() if len(m) > 1}


def _others(row: Row) -> dict[str, Any]:
    first = row.cells[0]
    return {**{name: value for name, value in row.params.items() if name != RANK}, **first.conditions, **first.choice}


def spread(row: Row) -> dict[float, float]:
    """α -> standard deviation over the seeds, if several scored it."""
    points: dict[float, list[float]] = {}
    for cell in row.cells:
        for point in cell.validation:
            points.setdefault(point["alpha"], []).append(point["mean_normalized"])
    return {alpha: stdev(found) for alpha, found in points.items() if len(found) > 1}


def against_alpha(group: Group, rows: Sequence[Row], looks: Looks, narrow: bool = False) -> Figure:
    """Validation accuracy of every scored α, with the chosen one marked; many lines get one panel per method."""
    crowded = max(Counter(row.method for row in rows).values()) > CROWDED
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(row.method if crowded else "", []).append(row)
    heights = [3.8 + 0.19 * (len(m) + 3) if narrow else max(3.8, 0.22 * (len(m) + 3)) for m in panels.values()]
    fig = figure(NARROW if narrow else 9, 0.6 + sum(heights))
    grid = fig.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for (method, members), axes in zip(panels.items(), grid.flat, strict=True):
        styles = line_styles([row.label for row in members], ordered=True) if method else looks
        for row in members:
            _alpha_line(axes, row, styles[row.label])
        star: dict[str, Any] = {"linestyle": "", "marker": "*", "markersize": 11, "markeredgecolor": INK}
        axes.plot([], [], color=INK, label="chosen α", **star)
        if any(row.at_edge for row in members):
            axes.plot([], [], color="none", label="chosen α at the end of its grid", **star)
        if any(map(partial, members)):
            axes.plot([], [], "o", color="none", markeredgecolor=INK, markersize=4.5, label="on part of the examples")
        _finish(axes, "α, scaling of the merged task vector", ON_VALIDATION, narrow=narrow)
        axes.set_title(method)
    entitle(fig, f"Choosing α: {group.title}")
    return fig


def _alpha_line(axes: Axes, row: Row, look: Mapping[str, Any]) -> None:
    """The curve of a row, the deviation over seeds as a band, chosen values as stars (open at the grid's end).

    Values that were measured on part of the examples have open markers.
    """
    points = {alpha: 100 * value for alpha, value in curve(row).items()}
    rough = {alpha: points[alpha] for alpha in sorted(partial(row))}
    whole = [at for at, alpha in enumerate(points) if alpha not in rough]
    axes.plot(list(points), list(points.values()), label=row.label, markevery=whole, **look)
    if rough:
        axes.plot(list(rough), list(rough.values()), **{**look, "linestyle": "", "markerfacecolor": "none"})
    band = {alpha: 100 * value for alpha, value in spread(row).items()}
    if band:
        low, high = ([points[alpha] + sign * band[alpha] for alpha in sorted(band)] for sign in (-1, 1))
        axes.fill_between(sorted(band), low, high, color=look["color"], alpha=0.15, linewidth=0)
    for at_edge in (False, True):
        chosen = sorted({cell.alpha for cell in row.cells if cell.alpha in points and cell.at_edge is at_edge})
        if chosen:
            colour: dict[str, Any] = {
                "color": "none" if at_edge else look["color"],
                "markeredgecolor": INK,
                "zorder": 3,
            }
            axes.plot(chosen, [points[alpha] for alpha in chosen], "*", markersize=13, **colour)
    note(axes, ((alpha, value, f"{row.label}, α {alpha:.4g}: {value:.2f} %") for alpha, value in points.items()))


def against_rank(group: Group, families: Mapping[str, Sequence[Row]], looks: Looks, narrow: bool = False) -> Figure:
    """Test accuracy at the chosen α against the fraction of singular components per task, on a log axis."""
    fig = figure(NARROW if narrow else 9, 4.2 + (0.19 * len(families) if narrow else 0))
    axes = fig.subplots()
    fractions = sorted({float(row.params[RANK]) for rows in families.values() for row in rows})
    for name, rows in families.items():
        known = [(float(row.params[RANK]), value) for row in rows if (value := row.average)]
        _estimates(axes, known, name, looks[rows[0].label], "rank fraction {:.3g}".format)
    if fractions[0] > 0:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_apart(fractions)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    _finish(axes, "rank fraction (components kept per task)", "average test accuracy (%)", narrow=narrow)
    entitle(fig, f"Rank per task: {group.title}")
    return fig


def _apart(values: Sequence[float]) -> list[float]:
    """A subset of ascending values whose labels do not overlap on a log axis."""
    kept: list[float] = []
    for value in values:
        if not kept or kept[-1] <= 0 or value / kept[-1] > (values[-1] / max(values[0], 1e-9)) ** 0.06:
            kept.append(value)
    return kept


def _estimates(
    axes: Axes,
    points: Sequence[tuple[float, Estimate]],
    name: str,
    look: Mapping[str, Any],
    at: Callable[[Any], str],
) -> None:
    """A line of estimates with standard errors or deviations over seeds."""
    errors = [nan if value.spread is None else 100 * value.spread for _, value in points]
    means = [100 * value.mean for _, value in points]
    axes.errorbar([x for x, _ in points], means, yerr=errors, capsize=2, elinewidth=1, label=name, **look)
    for (x, value), mean in zip(points, means, strict=True):
        exact = f"{mean:.2f}" + ("" if value.spread is None else f" ± {100 * value.spread:.2f}")
        note(axes, [(x, mean, f"{name}, {at(x)}: {exact} %")])


def counts(groups: Sequence[Group]) -> dict[str, list[tuple[int, Row]]]:
    """Label -> (number of tasks, row), ascending, for every setting that finished on several groups.

    Only groups whose tasks are a prefix of the longest list of tasks count: other accuracies are not comparable.
    """
    ascending = sorted(groups, key=lambda group: len(group.tasks))
    points: dict[str, list[tuple[int, Row]]] = {}
    for group in ascending:
        if group.tasks == ascending[-1].tasks[: len(group.tasks)]:
            for row in group.rows:
                points.setdefault(row.label, []).extend([(len(group.tasks), row)] if row.cells else [])
    return {name: found for name, found in points.items() if len(found) > 1}


def against_tasks(
    source: str, lines: Mapping[str, Sequence[tuple[int, Row]]], looks: Looks, narrow: bool = False
) -> Figure:
    """Average accuracy against the number of merged tasks, absolute and normalized."""
    below = 0.19 * len(lines) + 0.3
    fig = figure(NARROW, 7.6 + below) if narrow else figure(12, max(4.4, 0.6 + 0.24 * len(lines)))
    panels = fig.subplots(*((2, 1) if narrow else (1, 2)), sharey=True)
    titles = "absolute", "normalized" if narrow else "normalized by the fine-tuned models"
    for axes, title, figure_of in zip(panels, titles, (lambda r: r.average, lambda r: r.normalized), strict=True):
        for name, found in lines.items():
            known = [(number, value) for number, row in found if (value := figure_of(row))]
            _estimates(axes, known, name, looks[name], "{} tasks".format)
        first = axes is panels[0]
        _finish(
            axes,
            "number of tasks",
            "average test accuracy (%)" if first or narrow else "",
            legend=not first,
            narrow=narrow,
        )
        axes.set_xticks(sorted({number for found in lines.values() for number, _ in found}))
        axes.set_title(title)
    entitle(fig, f"Number of tasks: {source}")
    return fig


def _finish(axes: Axes, x: str, y: str, legend: bool = True, narrow: bool = False) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.yaxis.set_major_locator(locator())
    axes.grid(True)
    if legend:
        legend_beside(axes, narrow)
