"""The comparison of our order of methods with the published one."""

from pathlib import Path

import pytest
import ranking


def test_only_pairs_that_the_published_figures_separate_count() -> None:
    theirs = {"a": 60.0, "b": 60.9, "c": 70.0, "absent here": 80.0}
    assert ranking.agreements({"a": 1.0, "b": 2.0, "c": 3.0}, theirs) == [("c", "a", 1), ("c", "b", 1)]
    assert ranking.agreements({"a": 3.0, "b": 2.0, "c": 2.0}, theirs) == [("c", "a", -1), ("c", "b", 0)]


def test_differences_are_of_accuracies_relative_to_the_fine_tuned_models() -> None:
    found = ranking.differences({"individual": 80.0, "a": 60.0, "b": 40.0}, {"individual": 90.0, "a": 63.0})
    assert found == {"a": pytest.approx(5.0)}
    assert ranking.differences({"a": 60.0}, {"individual": 90.0, "a": 63.0}) == {}


def test_published_averages_are_those_of_the_same_tasks() -> None:
    methods = ["tsv_m", "iso_cts", "individual"]
    assert ranking.theirs("mass", 14, methods) == {"tsv_m": 78.6, "iso_cts": 80.6, "individual": 89.0}
    assert ranking.theirs("paper", 8, methods)["individual"] == pytest.approx(92.83, abs=0.01)  # the mean over tasks
    assert "individual" not in ranking.theirs("dc_merge", 8, methods)


def test_tables_of_a_report(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    head = "tasks,method,status,table,row,average\n"
    rows = ['8,ties,ok,"x, 8 tasks",ties,60.00', '8,ties,ok,"x, 8 tasks","ties, density 0.1",61.00']
    rows += ['8,tsv_m,failed,"x, 8 tasks",tsv_m,', "3,ties,ok,few,ties,50.00", '14,ties,ok,"x, 14 tasks",ties,55.00']
    file.write_text(head + "\n".join(rows))
    assert list(ranking.ours(file)) == [("x, 8 tasks", 8, {"ties": 60.0}), ("x, 14 tasks", 14, {"ties": 55.0})]
