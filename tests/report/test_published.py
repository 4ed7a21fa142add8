"""Measured figures beside published ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic import results, write_run

from tsv_exp.errors import UserError
from tsv_exp.report.results.published import families, published
from tsv_exp.report.results.runs import read_runs
from tsv_exp.report.tables.assemble import build_groups
from tsv_exp.report.tables.comparison import comparison_sheets
from tsv_exp.report.tables.formats.markup import markdown
from tsv_exp.report.tables.groups import Group
from tsv_exp.report.tables.sheets import Sheet, group_sheet
from tsv_exp.report.tables.single import run_table
from tsv_exp.tasks.definitions import task_names

FLAN = "tanganke/flan-t5-base_glue-*"
EIGHT = ("Cars", "DTD", "EuroSAT", "GTSRB", "MNIST", "RESISC45", "SVHN", "SUN397")


def measured(
    folder: Path, *methods: str, model: str = "vit_b_32", family: str = "paper", **changes: Any
) -> tuple[Group, ...]:
    tasks: Sequence[str] = changes.pop("tasks", EIGHT)
    for number, method in enumerate(methods):
        content = results(
            method, [0.8] * len(tasks), tasks=tasks, model=model, checkpoints={"family": family}, **changes
        )
        write_run(folder / str(number), content)
    return build_groups(read_runs([folder]))


def texts(sheet: Sheet) -> list[list[str]]:
    return [[line.label, *(entry.text for entry in line.entries)] for line in sheet.lines]


def test_each_method_is_measured_published_and_subtracted(tmp_path: Path) -> None:
    (sheet,) = comparison_sheets(measured(tmp_path, "tsv_m", "breadcrumbs"))
    assert sheet.headings == (*EIGHT, "average")
    rows = texts(sheet)
    assert rows[0] == ["tsv_m", *["80.00"] * 9]
    assert rows[1] == ["published", "70.46", "85.21", "95.12", "92.12", "99.28", "85.89", "91.62", "67.21", "85.86"]
    assert rows[2] == [
        "difference",
        "+9.54",
        "−5.21",
        "−15.12",
        "−12.12",
        "−19.28",
        "−5.89",
        "−11.62",
        "+12.79",
        "−5.86",
    ]
    assert rows[3:] == [["breadcrumbs", *["80.00"] * 9], ["published", *["–"] * 9], ["difference", *["–"] * 9]]
    assert "the paper family of checkpoints" in sheet.legend
    assert "arXiv 2412.00081" in sheet.legend


def test_averages_nobody_published_come_from_the_tasks(tmp_path: Path) -> None:
    (sheet,) = comparison_sheets(measured(tmp_path, "tsv_c", per_task=True))
    figures = [float(text) for text in texts(sheet)[1][1:]]
    assert figures[-1] == pytest.approx(sum(figures[:-1]) / 8, abs=0.005)
    assert sheet.lines[1].note == "average computed from the tasks"


def test_only_averages_were_published_for_b_16(tmp_path: Path) -> None:
    (sheet,) = comparison_sheets(measured(tmp_path, "tsv_m", model="vit_b_16"))
    assert texts(sheet)[1:] == [["published", *["–"] * 8, "89.01"], ["difference", *["–"] * 8, "−9.01"]]


def test_the_families_differ_and_one_may_be_asked_for(tmp_path: Path) -> None:
    groups = measured(tmp_path, "tsv_m", family="hub")
    (hub,) = comparison_sheets(groups)
    assert texts(hub)[1][2] == "63.83"
    (paper,) = comparison_sheets(groups, "paper")
    assert texts(paper)[1][2] == "85.21"
    assert comparison_sheets(measured(tmp_path / "own", "tsv_m", family="my_folder")) == []
    assert families() == ("paper", "hub", "mass", "dc_merge", "esm", FLAN, f"{FLAN}_lora-16")


def test_only_the_published_task_sets_and_parameters_compare() -> None:
    assert published("paper", "vit_b_32", EIGHT, "tsv_m", {"rank_fraction": 0.1}) == {}
    assert published("paper", "vit_b_32", EIGHT, "consensus_ta", {"threshold": 2})["average"] == 75.03
    assert published("paper", "vit_b_32", EIGHT[:5], "tsv_m", {}) == {}
    assert published("paper", "vit_b_32", EIGHT, "tsv_m", {"after": ["svc"]}) == {}
    assert published("paper", "vit_b_32", EIGHT, "tsv_m", {"after": []})["DTD"] == 85.21
    assert published("paper", "vit_b_32", EIGHT[::-1], "tsv_m", {})["DTD"] == 85.21
    # zero-shot and fine-tuned accuracies do not depend on the other tasks
    assert published("hub", "vit_l_14", ["KMNIST", "DTD"], "zero_shot", {}) == {"KMNIST": 9.71, "DTD": 55.53}
    assert published("paper", "vit_b_32", ["EMNIST"], "individual", {}) == {"EMNIST": 99.78}


def test_averages_of_other_families() -> None:
    assert published("hub", "vit_b_32", EIGHT, "iso_cts", {"common_fraction": 0.8})["average"] == 82.7
    assert published("hub", "vit_b_32", EIGHT, "ties", {"density": 0.2})["average"] == 72.2
    assert published("hub", "vit_b_32", EIGHT, "ties", {"density": 0.1}) == {}
    assert published("mass", "vit_b_32", EIGHT, "iso_cts", {}) == {"average": 82.0}
    assert published("dc_merge", "vit_l_14", EIGHT, "dc_merge", {"density": 0.001}) == {"average": 94.3}
    assert published("paper", "vit_b_32", EIGHT, "dc_merge", {}) == {}
    assert published("esm", "vit_b_32", EIGHT, "esm", {"power": 2.0, "weighting": 0.15}) == {"average": 88.6}


def test_published_averages_agree_with_their_tasks() -> None:
    # one was published 0.05 apart from the mean of its tasks
    for model in ("vit_b_32", "vit_l_14"):
        for method in ("zero_shot", "weight_average", "task_arithmetic", "consensus_ta", "tsv_m"):
            figures = published("paper", model, EIGHT, method, {})
            assert figures["average"] == pytest.approx(sum(figures[task] for task in EIGHT) / 8, abs=0.06)


@pytest.mark.parametrize("model", ["vit_b_32", "vit_b_16", "vit_l_14"])
def test_fusionbenchs_averages_agree_with_their_tasks(model: str) -> None:
    methods = ["weight_average", "task_arithmetic", "ties", "regmean", "regmean_pp"]
    for method in methods + ["wudi", "iso_c", "iso_cts"] * (model == "vit_b_32"):
        figures = published("hub", model, EIGHT, method, {})
        assert figures["average"] == pytest.approx(sum(figures[task] for task in EIGHT) / 8, abs=0.07)


def test_flan_t5_on_glue(tmp_path: Path) -> None:
    tasks = task_names("glue", None)
    (sheet,) = comparison_sheets(measured(tmp_path, "ties", model="text2text", family=FLAN, tasks=tasks))
    assert texts(sheet)[1][1:3] == ["70.30", "65.00"]
    assert texts(sheet)[1:][0][-1] == "79.90"
    for family in (FLAN, f"{FLAN}_lora-16"):
        for method in ("weight_average", "task_arithmetic", "ties"):
            figures = published(family, "text2text", tasks, method, {})
            average = figures.pop("average")
            if len(figures) == len(tasks):
                assert average == pytest.approx(sum(figures.values()) / 8, abs=0.1)
        assert published(family, "text2text", tasks, "zero_shot", {})["glue_stsb"] == 62.19


def test_asking_where_nothing_was_published_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--published paper: no published results for tiny"):
        comparison_sheets(measured(tmp_path, "tsv_m", model="tiny", family="tiny"), "paper")


def test_reports_say_that_hub_checkpoints_have_seen_validation_images(tmp_path: Path) -> None:
    (group,) = measured(tmp_path, "tsv_m", family="hub")
    remark = "have probably seen our validation images"
    assert remark in markdown([group_sheet(group)])
    assert remark in run_table(results(checkpoints={"family": "hub"}))
    assert remark not in run_table(results(checkpoints={"family": "paper"}))
