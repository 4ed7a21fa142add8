"""The comparison of our order of methods with the published one."""

from pathlib import Path

import pytest
import ranking
from ranking import Figures


def table(averages: dict[str, float]) -> dict[str, Figures]:
    return {method: Figures(average, average) for method, average in averages.items()}


def test_only_pairs_that_the_published_figures_separate_count() -> None:
    theirs = table({"a": 60.0, "b": 60.9, "c": 70.0, "absent here": 80.0})
    assert ranking.agreements(table({"a": 1.0, "b": 2.0, "c": 3.0}), theirs) == [("c", "a", 1), ("c", "b", 1)]
    assert ranking.agreements(table({"a": 3.0, "b": 2.0, "c": 2.0}), theirs) == [("c", "a", -1), ("c", "b", 0)]


def test_differences_are_of_normalized_accuracies() -> None:
    own = {name: Figures(60.0, normalized) for name, normalized in (("individual", 100.0), ("a", 75.0), ("b", 50.0))}
    other = {"individual": Figures(90.0, 100.0), "a": Figures(63.0, 70.0), "b": Figures(63.0, None)}
    assert ranking.differences(own, other) == {"a": 5.0}


def test_published_averages_are_those_of_the_same_tasks() -> None:
    methods = ["tsv_m", "iso_cts", "individual"]
    found = ranking.theirs("mass", 14, methods)
    assert found["tsv_m"] == Figures(78.62, 88.0)
    assert found["individual"] == (pytest.approx(89.08, abs=0.01), pytest.approx(100.0))  # the mean over tasks
    assert found["iso_cts"] == (80.6, pytest.approx(100 * 80.6 / 89.08, abs=0.01))  # only averages were published
    assert ranking.theirs("paper", 8, methods)["tsv_m"] == (85.86, pytest.approx(92.3, abs=0.05))


def test_tables_of_a_report(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    head = "tasks,method,status,table,row,average,normalized\n"
    rows = ['8,ties,ok,"x, 8 tasks",ties,60.00,70.00', '8,ties,ok,"x, 8 tasks","ties, density 0.1",61.00,71.00']
    rows += ['8,tsv_m,failed,"x, 8 tasks",tsv_m,,', "3,ties,ok,few,ties,50.00,60.00"]
    rows += ['14,ties,ok,"x, 14 tasks",ties,55.00,65.00']
    file.write_text(head + "\n".join(rows))
    eight, fourteen = ranking.ours(file)
    assert eight == ("x, 8 tasks", 8, {"ties": Figures(60.0, 70.0)})
    assert fourteen == ("x, 14 tasks", 14, {"ties": Figures(55.0, 65.0)})
