"""Rows of methods with a router, from results.json to tables, plots and trackers."""

from pathlib import Path
from typing import Any

import pytest
from synthetic import TASKS, results, write_run

from tsv_exp.report.results.cells import from_results
from tsv_exp.report.tables.single import run_table
from tsv_exp.report.write import write_report
from tsv_exp.tracking.content import report_tables, summary

SHARES = {task: {other: 0.7 if other == task else 0.1 for other in TASKS} for task in TASKS}


def routed(found: float = 0.7, **changes: Any) -> dict[str, Any]:
    part = {"accuracy": dict.fromkeys(TASKS, found), "mean_accuracy": found}
    told = {"accuracy": dict.fromkeys(TASKS, 0.9), "mean_accuracy": 0.9}
    routing = {"routed": part, "own_head": part, "told": told, "confusion": SHARES, "layers": ["a"], "stored_bytes": 5}
    return results(
        "tsv_c", (0.6, 0.7, 0.5, 0.6), curve={}, router="likelihood", routing=routing, per_task=True, **changes
    )


def test_a_router_is_part_of_the_method_and_has_a_table_and_a_map(tmp_path: Path) -> None:
    write_run(tmp_path / "0", results("tsv_c", curve={}, per_task=True, router="none"))
    write_run(tmp_path / "1", routed(settings={"router": {"_target_": "some.Router", "epsilon": 0.1}}))
    report = write_report([tmp_path], tmp_path / "report")
    (group,) = report.groups
    assert [row.label for row in group.rows] == ["tsv_c", "tsv_c + likelihood"]
    text = (tmp_path / "report" / "table.md").read_text(encoding="utf-8")
    assert "does not know the task of an example" in text
    (line,) = [line for line in text.split("routing")[1].splitlines() if "tsv_c + likelihood" in line]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["70.00"] * 4 + [
        "70.00",
        "60.00 ± 1.23",
        "70.00",
        "90.00",
        "66.67",
    ]
    names = {path.name for path in report.paths}
    assert any(name.startswith("confusion-") and name.endswith("tsv-c-likelihood.png") for name in names)
    assert "table/tiny-4-tasks-routing" in {table.key for table in report_tables(report)}


def test_settings_of_a_router_tell_its_rows_apart(tmp_path: Path) -> None:
    for number, epsilon in enumerate((0.1, 0.3)):
        write_run(tmp_path / str(number), routed(settings={"router": {"_target_": "some.Router", "epsilon": epsilon}}))
    (group,) = write_report([tmp_path], tmp_path / "report").groups
    labels = ["tsv_c + likelihood (router.epsilon 0.1)", "tsv_c + likelihood (router.epsilon 0.3)"]
    assert [row.label for row in group.rows] == labels


def test_the_table_of_a_run_and_its_summary_tell_what_routing_costs() -> None:
    table = run_table(routed())
    assert "the router finds the task of 70.00 % of the examples" in table
    assert "with the task known 90.00" in table
    found = summary(routed())
    assert found["routing/routed/mean_accuracy"] == 0.7
    assert found["routing/told/accuracy/Digits"] == 0.9
    assert not any("confusion" in name for name in found)
    assert "router" not in run_table(results("tsv_c", curve={}))


@pytest.mark.parametrize("part", ["routed", "own_head", "told", "confusion"])
def test_what_is_no_share_is_refused(part: str) -> None:
    broken = routed()
    broken["routing"][part] = {"accuracy": dict.fromkeys(TASKS, 7.0), "mean_accuracy": 0.5} | dict.fromkeys(
        TASKS, SHARES
    )
    with pytest.raises((ValueError, KeyError)):
        from_results(broken, Path())
