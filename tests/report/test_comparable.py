"""Rows of one table compare: what differs is a table of its own, or in the row's name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthetic import TASKS, failed, results, write_run

from tsv_exp.report.results.runs import read_runs
from tsv_exp.report.tables.assemble import build_groups
from tsv_exp.report.tables.sheets import group_sheet, overview_sheets

GRID = {"policy": "grid", "parameters": {"stop": 3.0, "steps": 30}, "changed": {}}
NONE = {"policy": "none", "parameters": {}, "changed": {}}


def fixed(value: float | None = None) -> dict[str, Any]:
    return {"policy": "fixed", "parameters": {}, "changed": {} if value is None else {"value": value}}


def trained(
    method: str = "tsv_m", *, steps: int = 60, test: int = 500, seed: int = 0, protocol: Any = GRID, **changes: Any
) -> dict[str, Any]:
    """A run whose weights depend on seed and steps, and whose data on the number of test images."""
    tasks = changes.get("tasks", TASKS)
    digests = {"base": "b"} | {name: f"{name}-{steps}-{seed}" for name in tasks}
    settings: dict[str, Any] = {
        "model": {"seed": "${seed}", "finetune": {"steps": steps}, "data": {"test": test}},
        "device": "auto",
        "engine": {"svd": "auto"},
    }
    content = results(method, [0.5] * len(tasks), seed=seed, **changes)
    content["checkpoints"]["digests"] = digests
    content["data"] = {name: f"{name}-{test}" for name in tasks}
    return {
        "settings": settings,
        "alpha_protocol": protocol,
        "cell": f"{changes}{method}{steps}{test}{seed}{protocol}",
    } | content


def tables(folder: Path, *contents: Mapping[str, Any]) -> dict[str, list[str]]:
    for number, content in enumerate(contents):
        write_run(folder / str(number), content)
    return {group.title: [row.label for row in group.rows] for group in build_groups(read_runs([folder]))}


def test_weights_and_data_make_tables_of_their_own(tmp_path: Path) -> None:
    """Four runs that one table once showed as two rows."""
    few, usual, ties, small = trained(steps=5), trained(), trained("ties"), trained(test=50)
    assert tables(tmp_path, few, ties, usual, small) == {
        "tiny (finetune.steps 5), 4 tasks": ["tsv_m"],
        "tiny, 4 tasks": ["ties", "tsv_m"],
        "tiny (data.test 50), 4 tasks": ["tsv_m"],
    }


def test_seeds_of_one_recipe_are_one_row_and_those_of_another_are_not(tmp_path: Path) -> None:
    contents = [trained(steps=steps, seed=seed) for steps in (60, 5) for seed in (0, 1)]
    for number, content in enumerate([*contents, trained(seed=2)]):
        write_run(tmp_path / str(number), content)
    groups = build_groups(read_runs([tmp_path]))
    assert {group.title: [cell.seed for cell in group.rows[0].cells] for group in groups} == {
        "tiny, 4 tasks": [0, 1, 2],
        "tiny (finetune.steps 5), 4 tasks": [0, 1],
    }


def test_precisions_and_changed_files_are_told_apart(tmp_path: Path) -> None:
    changed = trained(cell="other")
    changed["checkpoints"]["digests"]["Greek"] = "0123456789"
    assert list(tables(tmp_path, trained(), trained(cell="x", precision="bfloat16"), trained("ties"), changed)) == [
        "tiny (weights Greek Greek-), 4 tasks",
        "tiny (precision bfloat16), 4 tasks",
        "tiny (weights Greek 012345), 4 tasks",
    ]


def test_equal_weights_from_another_place_are_one_table(tmp_path: Path) -> None:
    moved = trained("ties")
    moved["settings"]["model"] = {"checkpoints": "elsewhere", "seed": "${seed}"}
    assert tables(tmp_path, trained(), moved) == {"tiny, 4 tasks": ["tsv_m", "ties"]}


def test_task_sets_share_a_source_only_with_equal_weights_and_data(tmp_path: Path) -> None:
    two = {"tasks": TASKS[:2]}
    for number, content in enumerate([trained(), trained(**two), trained(test=50, **two), trained("ties")]):
        write_run(tmp_path / str(number), content)
    groups = build_groups(read_runs([tmp_path]))
    assert [group.title for group in groups] == ["tiny, 4 tasks", "tiny, 2 tasks", "tiny (data.test 50), 2 tasks"]
    assert [sheet.title for sheet in overview_sheets(groups)] == ["tiny, by number of tasks"]


def test_how_alpha_was_found_is_in_the_name_where_it_is_not_as_usual(tmp_path: Path) -> None:
    short = {**GRID, "changed": {"steps": 5}}
    search = {**GRID, "policy": "search"}
    contents = [
        trained("zero_shot", protocol=NONE),
        trained("ties"),
        trained(),
        trained(protocol=search),
        trained(protocol=short),
        trained("iso_c", protocol=fixed(0.7)),
        trained("iso_cts", protocol=fixed()),
    ]
    assert tables(tmp_path, *contents) == {
        "tiny, 4 tasks": [
            "zero_shot",
            "ties",
            "tsv_m",
            "tsv_m (α by search)",
            "tsv_m (α steps 5)",
            "iso_c (α 0.7)",
            "iso_cts (α by default)",
        ]
    }
    (group,) = build_groups(read_runs([tmp_path]))
    assert (
        "α: scaling of the merged task vector, found by grid unless its row says otherwise."
        in group_sheet(group).legend
    )
    alone = [trained("ties", protocol=fixed()), trained(protocol=fixed())]
    assert tables(tmp_path / "alone", *alone) == {"tiny, 4 tasks": ["ties", "tsv_m"]}
    pair = [trained(protocol=search), trained("ties", protocol=GRID)]
    assert tables(tmp_path / "pair", *pair) == {"tiny, 4 tasks": ["tsv_m (α by search)", "ties (α by grid)"]}


def test_other_conditions_are_in_the_name_and_the_rest_is_called_by_its_run(tmp_path: Path) -> None:
    exact, again = trained(cell="exact"), trained(cell="a newer program")
    exact["settings"]["engine"] = {"svd": "exact"}
    assert tables(tmp_path, trained(), exact, trained("ties")) == {
        "tiny, 4 tasks": ["tsv_m (engine.svd auto)", "tsv_m (engine.svd exact)", "ties"]
    }
    assert tables(tmp_path / "again", trained(), again) == {"tiny, 4 tasks": ["tsv_m [run 0]", "tsv_m [run 1]"]}


def test_a_failed_run_belongs_to_the_table_of_its_recipe(tmp_path: Path) -> None:
    broken = failed("ties", "no memory", tasks=4, settings=trained(steps=5)["settings"], checkpoints={})
    found = tables(tmp_path, trained(), trained(steps=5), broken)
    assert found == {
        "tiny (finetune.steps 60), 4 tasks": ["tsv_m"],
        "tiny (finetune.steps 5), 4 tasks": ["tsv_m", "ties"],
    }
