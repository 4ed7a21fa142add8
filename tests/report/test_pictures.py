"""Pictures: the data decides which are drawn, and what is drawn is the data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
    assert [bar.get_width() for bar in left.patches] == pytest.approx([65, 75])
    assert [bar.get_width() for bar in right.patches] == pytest.approx([65 / 0.95, 75 / 0.95])
    panels = figures["tasks-tiny-4-tasks"].axes
    assert [axes.get_title(loc="left") for axes in panels] == list(TASKS)
    assert [bar.get_width() for bar in panels[1].patches] == pytest.approx([60, 80])
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["ties", "tsv_m"]


def test_curves_are_means_over_seeds_with_the_chosen_alpha_marked(tmp_path: Path) -> None:
    seeds = [results(curve={1.0: 0.5, 2.0: 0.8}), results(curve={1.0: 0.7, 2.0: 0.9}, seed=1)]
    groups = groups_of(tmp_path, *seeds, results("ties", curve={}))
    assert curve(groups[0].rows[0]) == pytest.approx({1.0: 0.6, 2.0: 0.85})
    line, star, _ = drawn(groups)["alpha-tiny-4-tasks"].axes[0].lines
    assert line.get_xydata() == approx([[1.0, 60], [2.0, 85]])
    assert star.get_xydata() == approx([[2.0, 85]])


def test_a_rank_sweep_gives_a_line_and_a_map(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, *rank_sweep())
    assert {key: [row.params["rank_fraction"] for row in rows] for key, rows in ranks(groups[0].rows).items()} == {
        "tsv_m": [0.1, 0.5]
    }
    figures = drawn(groups)
    assert list(figures["rank-tiny-4-tasks"].axes[0].lines[0].get_xdata()) == [0.1, 0.5]
    heat, _ = figures["alpha-rank-tiny-4-tasks-tsv-m"].axes
    assert np.array(heat.images[0].get_array()) == approx([[50, 70], [90, 60]])
    assert heat.lines[0].get_xydata() == approx([[0, 1]])


def test_other_parameters_separate_rank_sweeps(tmp_path: Path) -> None:
    contents = [results(params={"rank_fraction": r, "kind": kind}) for kind in "ab" for r in (0.1, 0.2)]
    (group,) = groups_of(tmp_path, *contents, results(params={"rank_fraction": None, "kind": "a"}))
    assert {key: len(rows) for key, rows in ranks(group.rows).items()} == {"tsv_m (kind a)": 2, "tsv_m (kind b)": 2}


def test_accuracy_against_nested_task_sets_only(tmp_path: Path) -> None:
    two = results(accuracy=(0.9, 0.9), tasks=TASKS[:2])
    figures = drawn(groups_of(tmp_path, results(), two, results("ties")))
    left, _ = figures["number-of-tasks-tiny"].axes
    (line,) = left.lines  # ties ran on one set only
    assert line.get_xydata() == approx([[2, 90], [4, 75]])
    apart = results(accuracy=(0.9, 0.9), tasks=TASKS[2:])
    assert "number-of-tasks-tiny" not in drawn(groups_of(tmp_path / "apart", results(), apart))
    assert "number-of-tasks-tiny" not in drawn(groups_of(tmp_path / "others", two, results("ties")))


def test_pictures_on_disk_are_the_same_each_time(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, *rank_sweep())
    first, second = (draw_pictures(groups, tmp_path / name) for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        assert [path.suffix for path in one.paths] == [".png", ".svg"]
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
