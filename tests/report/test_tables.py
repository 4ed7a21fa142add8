"""Cells to tables, and their formats."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from rich.console import Console
from synthetic import FULL, TASKS, failed, results, write_run

from tsv_exp.report.results.runs import read_runs
from tsv_exp.report.tables.assemble import build_groups
from tsv_exp.report.tables.formats.data import comma_separated, plain
from tsv_exp.report.tables.formats.markup import escape, latex, markdown
from tsv_exp.report.tables.formats.terminal import show
from tsv_exp.report.tables.groups import Group
from tsv_exp.report.tables.labels import label
from tsv_exp.report.tables.sheets import group_sheet, overview_sheets
from tsv_exp.report.tables.single import run_table


def groups_of(folder: Path, *contents: Mapping[str, Any] | str) -> tuple[Group, ...]:
    for number, content in enumerate(contents):
        write_run(folder / str(number), content)
    return build_groups(read_runs([folder]))


def paper_like() -> list[dict[str, Any]]:
    return [
        results("zero_shot", (0.5, 0.5, 0.99, 0.5), curve={}, alpha=0.0),
        results("individual", (0.95, 0.95, 0.95, 0.95), curve={}, per_task=True, stored_bytes=4 * FULL),
        results("ties", (0.6, 0.6, 0.6, 0.65)),
        results("tsv_c", (0.94, 0.94, 0.94, 0.94), curve={}, per_task=True, stored_bytes=int(1.6 * FULL)),
        results("tsv_m", (0.8, 0.8, 0.5, 0.8)),
    ]


def test_markdown_is_the_papers_table(tmp_path: Path) -> None:
    (group,) = groups_of(tmp_path, *paper_like())
    lines = markdown([group_sheet(group)]).splitlines()
    assert lines[0] == "## tiny, 4 tasks"
    assert lines[2] == "| method | Digits | Greek | Shapes | Clock | average | normalized | α | size |"
    assert lines[4] == "| zero_shot | 50.00 | 50.00 | 99.00 | 50.00 | 62.25 ± 1.23 | 65.53 | 0 | 25.0 % |"
    assert lines[5] == "| individual | 95.00 | 95.00 | 95.00 | 95.00 | 95.00 ± 1.23 | 100.00 | 1 | 100.0 % |"
    assert lines[7].endswith("| 1 | 40.0 % |")
    assert "binomial standard error" in lines[-1]


def test_best_and_second_are_chosen_among_single_merged_models(tmp_path: Path) -> None:
    (group,) = groups_of(tmp_path, *paper_like())
    text = latex([group_sheet(group)])
    row = {line.split(" & ")[0]: line for line in text.splitlines() if " & " in line}
    assert row["tsv\\_m"].count(r"\textbf") == 5  # three tasks and both averages
    assert row["ties"].count(r"\textbf{60.00}") == 1  # Shapes, where the base itself does better
    assert row["tsv\\_m"].count(r"\underline{50.00}") == 1
    for reference in ("zero\\_shot", "individual", "tsv\\_c"):
        assert "textbf" not in row[reference]
        assert "underline" not in row[reference]
    assert row["ties"].endswith(r"\underline{61.25 $\pm$ 1.23} & \underline{64.47} & 1 & 25.0 \% \\")


def test_equals_share_a_place_and_one_alone_has_none(tmp_path: Path) -> None:
    (group,) = groups_of(tmp_path, results("a"), results("b"), results("c", (0.1,) * 4))
    assert group.places(lambda row: row.average) == {"a": 1, "b": 1, "c": 2}
    (alone,) = groups_of(tmp_path / "alone", results("a"))
    assert alone.places(lambda row: row.average) == {}


def test_latex_is_complete_and_escaped(tmp_path: Path) -> None:
    (group,) = groups_of(tmp_path, results("a_b", params={"x": 1}), failed("c", "50% & more_#"))
    text = latex([group_sheet(group)])
    assert text.count(r"\begin") == text.count(r"\end") == 2
    assert text.count("{") == text.count("}") + text.count(r"\{") - text.count(r"\}")
    assert r"\toprule" in text
    assert r"c: failed: 50\% \& more\_\#\par" in text
    columns = text[text.index(r"\begin{tabular}{") + 16 :].split("}")[0]
    rows = text[text.index(r"\toprule") : text.index(r"\bottomrule")].splitlines()
    assert columns == "lrrrrrrrr"
    assert {row.count(" & ") for row in rows if " & " in row} == {len(columns) - 1}
    assert escape("\\^~") == r"\textbackslash{}\textasciicircum{}\textasciitilde{}"


def test_several_seeds_give_mean_and_standard_deviation(tmp_path: Path) -> None:
    accuracies = [0.70, 0.75, 0.80]
    contents = [results("ties", (a,) * 4, seed=s, curve={a: 0.9, 1.0: 0.8}) for s, a in enumerate(accuracies)]
    (group,) = groups_of(tmp_path, *contents, results("tsv_m"))
    ties, tsv = group.rows
    assert ties.average is not None
    assert (ties.average.mean, ties.average.spread) == pytest.approx((0.75, stdev(accuracies)))
    line = group_sheet(group).lines[0]
    assert [entry.text for entry in line.entries][-4:] == ["75.00 ± 5.00", "78.95 ± 5.26", "0.7–0.8 †", "25.0 %"]
    assert line.note == "seeds: 3"
    assert tsv.average is not None
    assert tsv.average.spread == 0.0123
    assert "standard deviation over seeds where there are several" in group_sheet(group).legend
    (even,) = groups_of(tmp_path / "even", *contents)
    assert "standard deviation over 3 seeds" in group_sheet(even).legend
    assert group_sheet(even).lines[0].note == ""


def test_an_alpha_at_an_end_of_its_grid_is_marked(tmp_path: Path) -> None:
    rising = {0.5: 0.7, 1.0: 0.8}
    search = {"policy": "search", "parameters": {"stop": 3.0, "steps": 30}, "changed": {}}
    contents = [
        results("consensus_ta", curve=rising),
        results("falling", curve={0.5: 0.8, 1.0: 0.7}),
        results("searched", curve=rising, alpha_protocol=search),  # 1.0 is the largest that was tried, not the largest
        results("given", curve={}, alpha=1.0),
    ]
    (group,) = groups_of(tmp_path, *contents)
    sheet = group_sheet(group)
    assert [line.entries[-2].text for line in sheet.lines] == ["1 †", "0.5 †", "1", "1"]
    assert "†: the end of the grid of α" in sheet.legend
    assert r"1 $\dagger$" in latex([sheet])
    assert "- α 1 † (chosen on validation) †: the end of the grid" in run_table(contents[0])
    assert "†" not in run_table(contents[2])
    rows = list(csv.DictReader(io.StringIO(comma_separated((group,)))))
    assert [(row["alpha"], row["alpha_at_edge"]) for row in rows[1:3]] == [("0.5", "True"), ("1", "False")]


def test_labels_name_only_what_differs(tmp_path: Path) -> None:
    contents = [
        results("tsv_m", params={"rank_fraction": None, "other": 1}),
        results("tsv_m", params={"rank_fraction": 0.1, "other": 1}),
        results("tsv_m", curve={}, alpha=0.5, params={"rank_fraction": None, "other": 1}),
        results("ties", params={"density": 0.2}),
    ]
    (group,) = groups_of(tmp_path, *contents)
    labels = [row.label for row in group.rows]
    assert labels == ["tsv_m", "tsv_m (rank_fraction 0.1)", "tsv_m (α 0.5)", "ties"]


def test_failed_and_missing_cells_are_shown(tmp_path: Path) -> None:
    two = results("ties", (0.5, 0.5), tasks=TASKS[:2])
    contents = [results("ties"), two, failed("tsv_m", "no memory"), results("tsv_c"), failed("tsv_m", "?", tasks=4)]
    groups = groups_of(tmp_path, *contents)
    assert [(len(group.tasks), [row.label for row in group.rows]) for group in groups] == [
        (4, ["ties", "tsv_m", "tsv_c"]),
        (2, ["ties"]),
    ]
    text = markdown([group_sheet(groups[0])])
    assert "| tsv_m | – | – | – | – | – | – | – | – | failed: no memory |" in text
    (overview,) = overview_sheets(groups)
    assert overview.headings == ("2 tasks", "4 tasks")
    texts = {line.label: [entry.text for entry in line.entries] for line in overview.lines}
    assert texts["tsv_m"] == ["missing", "failed"]
    assert texts["tsv_c"] == ["missing", "75.00 (78.95)"]
    assert texts["ties"][0] == "50.00 (52.63)"


def test_a_failure_that_a_later_run_mended_leaves_no_row(tmp_path: Path) -> None:
    (group,) = groups_of(tmp_path, failed("tsv_m", "no memory"), results("tsv_m"), results("ties"))
    assert [(row.label, row.status) for row in group.rows] == [("tsv_m", "ok"), ("ties", "ok")]


def test_models_and_families_of_checkpoints_do_not_mix(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, *(results(checkpoints={"family": family}) for family in ("tiny", "hub", "paper")))
    assert [group.source for group in groups] == ["tiny", "tiny (hub checkpoints)", "tiny (paper checkpoints)"]


def test_csv_holds_every_row_and_every_task(tmp_path: Path) -> None:
    contents = [results("ties", params={"density": 0.2}), results("ties", (0.25, 0.5), tasks=("Clock", "New"))]
    rows = list(csv.DictReader(io.StringIO(comma_separated(groups_of(tmp_path, *contents, failed("a", "x,y"))))))
    assert [row["average"] for row in rows] == ["75.00", "", "37.50"]
    assert (rows[0]["Digits"], rows[0]["New"], rows[0]["Clock"]) == ("90.00", "", "60.00")
    assert (rows[2]["Digits"], rows[2]["New"], rows[2]["Clock"]) == ("", "50.00", "25.00")
    assert (rows[1]["status"], rows[1]["error"]) == ("failed", "x,y")
    assert rows[0]["params"] == "density=0.2"
    assert rows[0]["average_spread"] == "1.23"


def test_plain_values_survive_json(tmp_path: Path) -> None:
    write_run(tmp_path / "0", results())
    write_run(tmp_path / "1", failed("ties", "broken"))
    runs = read_runs([tmp_path])
    report = json.loads(json.dumps(plain(build_groups(runs), runs), allow_nan=False))
    good, bad = report["groups"][0]["rows"]
    assert good["figures"]["average"] == {"mean": pytest.approx(0.75), "spread": 0.0123}
    assert bad["figures"]["average"] is None
    assert report["problems"] == [{"folder": str(tmp_path / "1"), "reason": "failed: broken"}]


@pytest.mark.parametrize(("width", "shown"), [(200, True), (80, False)])
def test_the_terminal_keeps_the_averages_where_it_is_narrow(tmp_path: Path, width: int, shown: bool) -> None:
    (group,) = groups_of(tmp_path, *paper_like())
    console = Console(file=io.StringIO(), width=width)
    show([group_sheet(group)], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "72.50 ± 1.23" in text
    assert ("Digits" in text) is shown


def test_the_terminal_shows_brackets_in_titles_headings_and_legends(tmp_path: Path) -> None:
    (group,) = groups_of(tmp_path, *paper_like())
    console, sheet = Console(file=io.StringIO(), width=200), group_sheet(group)
    headings = ("[cars]", *sheet.headings[1:])
    show([replace(sheet, title="to a [svc]", headings=headings, legend="that of a [svc]")], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(part in text for part in ("to a [svc]", "[cars]", "that of a [svc]"))


def test_the_table_of_one_run() -> None:
    text = run_table(results(params={"rank_fraction": 0.1, "unused": None}))
    assert text.startswith("# tsv_m, tiny, 4 tasks\n")
    assert "| Digits | 90.00 | 94.74 |" in text
    assert "| **average** | **75.00 ± 1.23** | **78.95** |" in text
    assert "- α 1 (chosen on validation)\n" in text
    assert "25.0 %" in text
    assert "rank_fraction 0.1; seed 0" in text
    assert "(given)" in run_table(results(curve={}))
    assert run_table(failed("ties", "no memory")).endswith("\n\nFailed: no memory\n")


def test_the_table_of_a_run_tells_on_how_many_examples_a_race_decided() -> None:
    raced = results(validation_passes=2.86)
    raced["validation"] = [point | {"examples": 600} for point in raced["validation"]]
    assert "- α 1 (chosen on validation in 2.9 passes, measured on 600 examples)\n" in run_table(raced)
    assert "- α 1 (chosen on validation)\n" in run_table(results(validation_passes=30))


def test_the_table_of_a_run_has_the_values_that_every_task_chose() -> None:
    tuned = results("tall_mask", params={"lambda_": 0.4, "threshold": 2}, tuning_passes=2.25)
    assert "- parameters: lambda_ 0.4, threshold 2; seed 0" in run_table(tuned)
    text = run_table(tuned | {"chosen": {"lambda": {"Digits": 0.6, "Greek": 0.2}, "rank": {"layer": 3}}})
    assert "- lambda chosen on validation (2.2 passes): Digits 0.6, Greek 0.2\n" in text
    assert "- parameters: threshold 2; seed 0" in text


def test_task_sets_of_one_size_are_told_apart(tmp_path: Path) -> None:
    contents = [results(accuracy=(0.5, 0.5), tasks=tasks) for tasks in (TASKS[:2], TASKS[2:])]
    groups = groups_of(tmp_path, *contents, results(), results(accuracy=(0.5,), tasks=TASKS[:1]))
    assert [group.title for group in groups] == [
        "tiny, Digits, Greek",
        "tiny, Shapes, Clock",
        "tiny, 4 tasks",
        "tiny, Digits",
    ]


def test_labels_show_no_more_digits_than_people_typed() -> None:
    assert label("tsv_m", {"α": 2.4000000000000004, "rank_fraction": 0.05, "seed": 1, "x": None, "flag": True}) == (
        "tsv_m (α 2.4, rank_fraction 0.05, seed 1, flag True)"
    )


def test_near_ties_are_told_in_the_table_of_a_run() -> None:
    tied = results(near_ties=[{"alpha": alpha, "mean_normalized": 0.8} for alpha in (0.5, 1.0)])
    line = "- 2 values of α from 0.5 to 1 were within one validation example of the best, and were compared in float32"
    assert line in run_table(tied)
    assert "float32" not in run_table(results())
