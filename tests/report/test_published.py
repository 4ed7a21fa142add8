"""Measured figures beside published ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic import results, write_run

from tsv_exp.errors import UserError
from tsv_exp.report.results.published import averages, families, published
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
    assert sheet.headings == (*EIGHT, "average", "normalized")
    rows = texts(sheet)
    assert rows[0] == ["tsv_m", *["80.00"] * 9, "84.21"]
    stated = ["70.46", "85.21", "95.12", "92.12", "99.28", "85.89", "91.62", "67.21", "85.86"]
    assert rows[1] == ["published", *stated, "92.31"]
    apart = ["+9.54", "−5.21", "−15.12", "−12.12", "−19.28", "−5.89", "−11.62", "+12.79", "−5.86"]
    assert rows[2] == ["difference", *apart, "−8.10"]
    assert sheet.lines[1].note == "normalized computed from the tasks"
    assert rows[3:] == [
        ["breadcrumbs", *["80.00"] * 9, "84.21"],
        ["published", *["–"] * 10],
        ["difference", *["–"] * 10],
    ]
    assert "the paper family of checkpoints" in sheet.legend
    assert "arXiv 2412.00081" in sheet.legend


def test_averages_nobody_published_come_from_the_tasks(tmp_path: Path) -> None:
    (sheet,) = comparison_sheets(measured(tmp_path, "tsv_c", per_task=True))
    figures = [float(text) for text in texts(sheet)[1][1:]]
    assert figures[-2] == pytest.approx(sum(figures[:-2]) / 8, abs=0.005)
    finetuned = published("paper", "vit_b_32", EIGHT, "individual", {})
    ratios = [100 * figure / finetuned[task] for task, figure in zip(EIGHT, figures[:-2], strict=True)]
    assert figures[-1] == pytest.approx(sum(ratios) / 8, abs=0.005)
    assert sheet.lines[1].note == "average and normalized computed from the tasks"


def test_only_averages_were_published_for_b_16(tmp_path: Path) -> None:
    (sheet,) = comparison_sheets(measured(tmp_path, "tsv_m", model="vit_b_16"))
    stated, apart = texts(sheet)[1:]
    assert stated == ["published", *["–"] * 8, "89.01", "93.90"]
    assert apart == ["difference", *["–"] * 8, "−9.01", "−9.69"]
    assert sheet.lines[1].note == ""


def test_the_families_differ_and_one_may_be_asked_for(tmp_path: Path) -> None:
    groups = measured(tmp_path, "tsv_m", family="hub")
    (hub,) = comparison_sheets(groups)
    assert texts(hub)[1][2] == "63.83"
    (paper,) = comparison_sheets(groups, "paper")
    assert texts(paper)[1][2] == "85.21"
    assert comparison_sheets(measured(tmp_path / "own", "tsv_m", family="my_folder")) == []
    assert families() == ("paper", "hub", "mass", FLAN, f"{FLAN}_lora-16")


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
    assert published("mass", "vit_l_14", EIGHT, "tsv_m", {}) == {"average": 91.25, "normalized": 96.71}
    assert published("paper", "vit_l_14", EIGHT, "dc_merge", {"density": 0.001}) == {
        "average": 94.3,
        "normalized": 98.4,
    }
    esm = published("paper", "vit_b_32", EIGHT, "esm", {"power": 2.0, "weighting": 0.15})
    assert esm == {"average": 88.6, "normalized": 95.4}


def test_published_averages_agree_with_their_tasks() -> None:
    # one was published 0.05 apart from the mean of its tasks
    for model in ("vit_b_32", "vit_l_14"):
        for method in ("zero_shot", "weight_average", "task_arithmetic", "consensus_ta", "tsv_m"):
            figures = published("paper", model, EIGHT, method, {})
            assert figures["average"] == pytest.approx(sum(figures[task] for task in EIGHT) / 8, abs=0.06)


@pytest.mark.parametrize("count", [8, 14, 20])
def test_normalized_averages_agree_with_the_table_of_esm(count: int) -> None:
    tasks = task_names("clip", None)[:count]
    table = {
        "weight_average": {8: 72.1, 14: 71.1, 20: 67.5},
        "task_arithmetic": {8: 76.5, 14: 72.1, 20: 66.8},
        "consensus_ta": {8: 80.8, 14: 77.4, 20: 72.0},
        "tsv_m": {8: 92.3, 14: 87.9, 20: 84.3},
    }
    for method, sizes in table.items():
        found = averages("paper", "vit_b_32", tasks, published("paper", "vit_b_32", tasks, method, {}))
        assert found["normalized"] == pytest.approx(sizes[count], abs=0.06)


@pytest.mark.parametrize("count", [8, 20])
def test_masss_averages_agree_with_their_tasks(count: int) -> None:
    tasks = task_names("clip", None)[:count]
    figures = published("mass", "vit_b_32", tasks, "tsv_m", {})
    for name, value in averages("mass", "vit_b_32", tasks, figures).items():
        assert value == pytest.approx(figures[name], abs=0.02)


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
    assert texts(sheet)[1][-2] == "79.90"
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
