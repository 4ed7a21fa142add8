"""Lines and maps: accuracy against α, rank fraction and the number of tasks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tsv_exp.report.plots.style import INK, entitle, figure, legend_beside, line_styles
from tsv_exp.report.tables.groups import Group, Row
from tsv_exp.report.tables.labels import label

RANK = "rank_fraction"
ON_VALIDATION = "validation accuracy relative\nto fine-tuned (%)"
CROWDED = 4  # more settings of one method than this get a panel and a scale of colours


def curve(row: Row) -> dict[float, float]:
    """α -> normalized validation accuracy, mean over the seeds that scored it."""
    points: dict[float, list[float]] = {}
    for cell in row.cells:
        for point in cell.validation:
            points.setdefault(point["alpha"], []).append(point["mean_normalized"])
    return {alpha: fmean(points[alpha]) for alpha in sorted(points)}


def ranks(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by what they have in common but the rank fraction, where that takes several values; ascending."""
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


def against_alpha(group: Group, rows: Sequence[Row]) -> Figure:
    """Validation accuracy of every α that was scored, the chosen one marked; many lines get a panel per method."""
    crowded = max(Counter(row.method for row in rows).values()) > CROWDED
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(row.method if crowded else "", []).append(row)
    fig = figure(8, 0.6 + 3.8 * len(panels))
    for (method, members), axes in zip(panels.items(), fig.subplots(len(panels), 1, squeeze=False).flat, strict=True):
        styles = line_styles([row.label for row in members], ordered=bool(method))
        for row in members:
            points = {alpha: 100 * value for alpha, value in curve(row).items()}
            axes.plot(list(points), list(points.values()), label=row.label, **styles[row.label])
            chosen = [alpha for alpha in row.alphas if alpha in points]
            colour = styles[row.label]["color"]
            marks = [points[alpha] for alpha in chosen]
            axes.plot(chosen, marks, "*", markersize=13, color=colour, markeredgecolor=INK, zorder=3)
        axes.plot([], [], "*", markersize=11, color="none", markeredgecolor=INK, label="chosen α")
        _finish(axes, "α, scaling of the merged task vector", ON_VALIDATION)
        axes.set_title(method)
    entitle(fig, f"Choosing α: {group.title}")
    return fig


def against_rank(group: Group, families: Mapping[str, Sequence[Row]]) -> Figure:
    """Test accuracy at the chosen α against the fraction of singular components kept per task."""
    fig = figure(8, 4.2)
    axes = fig.subplots()
    styles = line_styles(list(families))
    for name, rows in families.items():
        values = [row.average for row in rows]
        spread = [100 * (value.spread or 0) if value else 0 for value in values]
        means = [100 * value.mean if value else 0 for value in values]
        axes.errorbar([row.params[RANK] for row in rows], means, yerr=spread, capsize=2, label=name, **styles[name])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    _finish(axes, "rank fraction (components kept per task)", "average test accuracy (%)")
    entitle(fig, f"Rank per task: {group.title}")
    return fig


def alpha_rank_map(group: Group, name: str, rows: Sequence[Row]) -> Figure:
    """Validation accuracy over α and rank fraction, the best combination marked."""
    curves = [curve(row) for row in rows]
    alphas = sorted({alpha for points in curves for alpha in points})
    values = [[100 * points.get(alpha, float("nan")) for alpha in alphas] for points in curves]
    fig = figure(1.6 + max(5.0, 0.3 * len(alphas)), 1.4 + 0.32 * len(rows))
    axes = fig.subplots()
    image = axes.imshow(values, aspect="auto", origin="lower", cmap="viridis")
    axes.set_yticks(range(len(rows)), [f"{row.params[RANK]:.3g}" for row in rows])
    axes.set_xticks(range(len(alphas)), [f"{alpha:.2g}" for alpha in alphas], rotation=90)
    best = max((value, y, x) for y, line in enumerate(values) for x, value in enumerate(line) if value == value)
    axes.plot(best[2], best[1], "*", markersize=14, color="white", markeredgecolor="black")
    axes.set_xlabel("α, scaling of the merged task vector")
    axes.set_ylabel("rank fraction")
    fig.colorbar(image, label=ON_VALIDATION)
    entitle(fig, f"{name}: {group.title} (★ best on validation)")
    return fig


def counts(groups: Sequence[Group]) -> dict[str, list[tuple[int, Row]]]:
    """Number of tasks and row of every setting that finished on several of the groups, by its label; ascending.

    Only groups whose tasks begin the longest list of tasks count: accuracies on other tasks would not compare.
    """
    ascending = sorted(groups, key=lambda group: len(group.tasks))
    points: dict[str, list[tuple[int, Row]]] = {}
    for group in ascending:
        if group.tasks == ascending[-1].tasks[: len(group.tasks)]:
            for row in group.rows:
                points.setdefault(row.label, []).extend([(len(group.tasks), row)] if row.cells else [])
    return {name: found for name, found in points.items() if len(found) > 1}


def against_tasks(source: str, lines: Mapping[str, Sequence[tuple[int, Row]]]) -> Figure:
    """Average accuracy against the number of merged tasks, absolute and normalized."""
    fig = figure(11, max(4.2, 0.6 + 0.24 * len(lines)))
    left, right = fig.subplots(1, 2, sharey=True)
    styles = line_styles(list(lines))
    for name, found in lines.items():
        numbers = [number for number, _ in found]
        for axes, values in ((left, [row.average for _, row in found]), (right, [row.normalized for _, row in found])):
            axes.plot(numbers, [100 * value.mean for value in values if value], label=name, **styles[name])
    for axes, title in ((left, "absolute"), (right, "normalized by the fine-tuned models")):
        _finish(axes, "number of tasks", "average test accuracy (%)" if axes is left else "", legend=axes is right)
        axes.set_xticks(sorted({number for found in lines.values() for number, _ in found}))
        axes.set_title(title)
    entitle(fig, f"Number of tasks: {source}")
    return fig


def _finish(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
    axes.grid(True)
    if legend:
        legend_beside(axes)
