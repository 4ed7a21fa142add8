"""Pictures: the data decides which are drawn, and what is drawn is the data."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from synthetic import TASKS, failed, results, write_run

from tsv_exp.report.plots.curves import curve, ranks
from tsv_exp.report.plots.draw import draw
from tsv_exp.report.plots.pictures import draw_pictures
from tsv_exp.report.plots.style import styled
from tsv_exp.report.results.runs import read_runs
from tsv_exp.report.tables.assemble import build_groups
from tsv_exp.report.tables.groups import Group


def groups_of(folder: Path, *contents: Mapping[str, Any]) -> tuple[Group, ...]:
    for number, content in enumerate(contents):
        write_run(folder / str(number), content)
    return build_groups(read_runs([folder]))


def drawn(groups: tuple[Group, ...]) -> dict[str, Figure]:
    with styled():
        return {name: figure for _, name, figure in draw(groups)}


def dots(axes: Axes) -> list[float]:
    """The values of dots from the top."""
    found = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
    return [x for x, _ in sorted(found, key=lambda xy: xy[1])]


def approx(rows: list[list[float]]) -> Any:
    return pytest.approx(np.array(rows))


def rank_sweep() -> list[dict[str, Any]]:
    curves = {0.1: {1.0: 0.5, 2.0: 0.7}, 0.5: {1.0: 0.9, 2.0: 0.6}}
    return [results(params={"rank_fraction": rank}, curve=points) for rank, points in reversed(curves.items())]


def test_one_fixed_run_supports_only_bars(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, results("weight_average", curve={}))
    assert list(drawn(groups)) == ["average-tiny-4-tasks", "tasks-tiny-4-tasks"]
    assert list(drawn(groups_of(tmp_path / "one", results(accuracy=(0.5,), tasks=("Clock",), curve={})))) == [
        "average-tiny-clock"
    ]


def test_failed_runs_draw_nothing(tmp_path: Path) -> None:
    assert drawn(groups_of(tmp_path, failed("ties", "no memory"))) == {}


def test_bars_are_the_accuracies(tmp_path: Path) -> None:
    figures = drawn(groups_of(tmp_path, results("ties", (0.5, 0.6, 0.7, 0.8)), results("tsv_m")))
    left, right = figures["average-tiny-4-tasks"].axes
    assert dots(left) == pytest.approx([65, 75])
    assert dots(right) == pytest.approx([65 / 0.95, 75 / 0.95])
    panels = figures["tasks-tiny-4-tasks"].axes
    assert [axes.get_title(loc="left") for axes in panels] == list(TASKS)
    assert dots(panels[1]) == pytest.approx([60, 80])
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["ties", "tsv_m"]


def test_a_plot_shows_the_best_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsv_exp.report.plots.draw.MOST", 2)
    curves = {f"m{i}": {1.0: accuracy, 2.0: 0.5} for i, accuracy in enumerate((0.6, 0.7, 0.8))}
    contents = [results(name, (points[1.0],) * 4, curve=points) for name, points in curves.items()]
    figures = drawn(groups_of(tmp_path, *contents))
    assert dots(figures["average-tiny-4-tasks"].axes[0]) == pytest.approx([70, 80])
    assert dots(figures["tasks-tiny-4-tasks"].axes[2]) == pytest.approx([70, 80])
    lines = [line.get_label() for line in figures["alpha-tiny-4-tasks"].axes[0].lines]
    assert [label for label in lines if label in curves] == ["m1", "m2"]
    for name, figure in figures.items():
        assert figure.get_suptitle().endswith("4 tasks, the best 2 of 3 rows"), name
    assert next(iter(drawn(groups_of(tmp_path / "few", *contents[:2])).values())).get_suptitle().endswith("4 tasks")


def test_curves_are_means_over_seeds_with_the_chosen_alpha_marked(tmp_path: Path) -> None:
    seeds = [results(curve={1.0: 0.5, 2.0: 0.8}), results(curve={1.0: 0.7, 2.0: 0.9}, seed=1)]
    groups = groups_of(tmp_path, *seeds, results("ties", curve={}))
    assert curve(groups[0].rows[0]) == pytest.approx({1.0: 0.6, 2.0: 0.85})
    axes = drawn(groups)["alpha-tiny-4-tasks"].axes[0]
    line, star, *legend = axes.lines
    assert [entry.get_label() for entry in legend] == ["chosen α", "chosen α at the end of its grid"]
    assert star.get_markerfacecolor() == "none"  # 2.0 is the end of the grid
    (band,) = axes.collections
    low, high = band.get_datalim(axes.transData).intervaly
    assert (low, high) == pytest.approx((60 - 100 * stdev([0.5, 0.7]), 85 + 100 * stdev([0.8, 0.9])))
    assert line.get_xydata() == approx([[1.0, 60], [2.0, 85]])
    assert star.get_xydata() == approx([[2.0, 85]])


def test_values_that_a_race_dropped_early_have_open_markers(tmp_path: Path) -> None:
    raced = results(curve={1.0: 0.9, 2.0: 0.8, 3.0: 0.6})
    for point, examples in zip(raced["validation"], (40, 80, 80), strict=True):
        point["examples"] = examples
    line, rough, _, *legend = drawn(groups_of(tmp_path, raced))["alpha-tiny-4-tasks"].axes[0].lines
    assert line.get_markevery() == [1, 2]
    assert (rough.get_markerfacecolor(), rough.get_linestyle()) == ("none", "None")
    assert rough.get_xydata() == approx([[1.0, 90]])
    assert legend[-1].get_label() == "on part of the examples"


def test_a_long_legend_fits_beside_its_panel(tmp_path: Path) -> None:
    rows = [results(params={"density": i / 100}, curve={1.0: 0.5, 2.0: 0.7}) for i in range(40)]
    figure = drawn(groups_of(tmp_path, *rows))["alpha-tiny-4-tasks"]
    figure.draw_without_rendering()
    assert figure.axes[0].get_legend().get_window_extent().height <= figure.bbox.height


def test_a_rank_sweep_gives_a_line_and_a_map(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, *rank_sweep())
    assert {key: [row.params["rank_fraction"] for row in rows] for key, rows in ranks(groups[0].rows).items()} == {
        "tsv_m": [0.1, 0.5]
    }
    figures = drawn(groups)
    assert list(figures["rank-tiny-4-tasks"].axes[0].lines[0].get_xdata()) == [0.1, 0.5]
    heat, _ = figures["alpha-rank-tiny-4-tasks-tsv-m"].axes
    assert [list(np.ravel(mesh.get_array())) for mesh in heat.collections] == approx([[50, 70], [90, 60]])
    assert heat.lines[0].get_xydata() == approx([[1.0, 1]])
    axes = figures["rank-tiny-4-tasks"].axes[0]
    assert axes.get_xscale() == "log"
    assert list(axes.get_xticks()) == [0.1, 0.5]


def test_unequal_steps_of_alpha_are_drawn_unequal_and_small_differences_pale(tmp_path: Path) -> None:
    curves = {0.1: {0.5: 0.94, 1.0: 0.95, 3.0: 0.96}, 0.5: {1.0: 0.97, 2.0: 0.99}}
    contents = [results(params={"rank_fraction": rank}, curve=points) for rank, points in curves.items()]
    heat, _ = drawn(groups_of(tmp_path, *contents))["alpha-rank-tiny-4-tasks-tsv-m"].axes
    first, second = heat.collections
    assert list(first.get_coordinates()[0, :, 0]) == pytest.approx([0.25, 0.75, 2.0, 4.0])
    assert list(second.get_coordinates()[0, :, 0]) == pytest.approx([0.5, 1.5, 2.5])
    assert (first.norm.vmin, first.norm.vmax) == pytest.approx((89, 99))
    assert heat.get_xlim() == pytest.approx((0.25, 3.25))
    assert "dots: scored" in heat.get_xlabel()


def test_colour_is_the_methods_in_every_picture(tmp_path: Path) -> None:
    two = [results(method, (0.9, 0.8), tasks=TASKS[:2]) for method in ("ties", "tsv_m")]
    figures = drawn(
        groups_of(tmp_path, results("zero_shot", alpha=0.0, curve={}), results("tsv_m"), results("ties"), *two)
    )
    curved = {line.get_label(): line.get_color() for line in figures["alpha-tiny-4-tasks"].axes[0].lines}
    counted = {
        bars.get_label(): bars.lines[0].get_color() for bars in figures["number-of-tasks-tiny"].axes[0].containers
    }
    left = figures["average-tiny-4-tasks"].axes[0]
    names = [text.get_text() for text in left.get_yticklabels()]
    by_height = sorted((line for line in left.lines if line.get_marker() == "o"), key=lambda line: line.get_ydata()[0])
    shown = dict(zip(names, [line.get_color() for line in by_height], strict=True))
    assert len(set(shown.values())) == 3
    for name in ("tsv_m", "ties"):
        assert curved[name] == counted[name] == shown[name]


def test_ticks_are_at_round_steps(tmp_path: Path) -> None:
    for lowest in (0.41, 0.67, 0.93):
        groups = groups_of(tmp_path / str(lowest), results(accuracy=[lowest] * 4), results("b", [0.95] * 4))
        for figure in drawn(groups).values():
            figure.draw_without_rendering()
            for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
                ticks = axis.get_majorticklocs()
                step = ticks[1] - ticks[0]
                mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
                assert any(mantissa == pytest.approx(one) for one in (1, 2, 2.5, 5))


def test_methods_in_the_order_of_their_score_on_request(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, results("low", [0.5] * 4), results("high", [0.9] * 4), results("middle", [0.7] * 4))
    with styled():
        figures = {name: figure for _, name, figure in draw(groups, by_score=True)}
    assert [text.get_text() for text in figures["average-tiny-4-tasks"].axes[0].get_yticklabels()] == [
        "high",
        "middle",
        "low",
    ]


def test_differences_of_a_point_are_seen_and_none_are_exaggerated(tmp_path: Path) -> None:
    axes = drawn(groups_of(tmp_path, results(accuracy=[0.90] * 4), results("b", [0.91] * 4)))[
        "average-tiny-4-tasks"
    ].axes[0]
    low, high = axes.get_xlim()
    assert 4 <= high - low <= 10


def test_exact_values_are_told_where_the_mouse_rests(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, results("a<b>", curve={0.5: 0.71234, 1.0: 0.8}))
    pictures = draw_pictures(groups, tmp_path / "plots")
    alpha = next(picture for picture in pictures if "Choosing" in picture.title)
    assert alpha.element.count("<title>a&lt;b&gt;, α 0.5: 71.23 %</title>") == 2  # on a desk and on a phone
    average = next(picture for picture in pictures if "Average" in picture.title)
    assert "<title>a&lt;b&gt;: 75.00 ± 1.23 %</title>" in average.element
    # the circle lies on its mark
    svg = alpha.paths[1].read_text(encoding="utf-8")
    marks = re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="([\d.]+)"', svg)
    circle = re.search(r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*><title>a&lt;b&gt;, α 0.5', svg)
    assert circle is not None
    place = [float(value) for value in circle.groups()]
    assert any([float(value) for value in mark] == pytest.approx(place, abs=0.1) for mark in marks)


def test_other_parameters_separate_rank_sweeps(tmp_path: Path) -> None:
    contents = [results(params={"rank_fraction": r, "kind": kind}) for kind in "ab" for r in (0.1, 0.2)]
    (group,) = groups_of(tmp_path, *contents, results(params={"rank_fraction": None, "kind": "a"}))
    assert {key: len(rows) for key, rows in ranks(group.rows).items()} == {"tsv_m (kind a)": 2, "tsv_m (kind b)": 2}


def test_accuracy_against_nested_task_sets_only(tmp_path: Path) -> None:
    two = results(accuracy=(0.9, 0.9), tasks=TASKS[:2])
    figures = drawn(groups_of(tmp_path, results(), two, results("ties")))
    left, _ = figures["number-of-tasks-tiny"].axes
    line, *_ = left.containers[0].lines
    assert line.get_xydata() == approx([[2, 90], [4, 75]])
    assert len(left.containers) == 1  # ties ran on one set only
    apart = results(accuracy=(0.9, 0.9), tasks=TASKS[2:])
    assert "number-of-tasks-tiny" not in drawn(groups_of(tmp_path / "apart", results(), apart))
    assert "number-of-tasks-tiny" not in drawn(groups_of(tmp_path / "others", two, results("ties")))


def test_pictures_on_disk_are_the_same_each_time(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, *rank_sweep())
    first, second = (draw_pictures(groups, tmp_path / name) for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        assert [path.suffix for path in one.paths] == [".png", ".svg", ".svg"]
        for path, same in zip(one.paths, other.paths, strict=True):
            assert path.read_bytes() == same.read_bytes()
    assert first[0].paths[0].read_bytes().startswith(b"\x89PNG")


def test_inline_pictures_take_the_pages_ink_and_share_no_identifiers(tmp_path: Path) -> None:
    one, other = draw_pictures(groups_of(tmp_path, results()), tmp_path / "plots")[:2]
    assert one.element.startswith("<svg")
    assert "currentColor" in one.element
    assert "#010203" not in one.element
    identifiers = [{part.split('"')[0] for part in picture.element.split(' id="')[1:]} for picture in (one, other)]
    assert identifiers[0]
    assert identifiers[0].isdisjoint(identifiers[1])
