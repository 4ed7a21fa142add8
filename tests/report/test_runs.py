"""Run folders to cells: what counts, what is skipped, what is said about it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import FULL, TASKS, failed, results, write_run

from tsv_exp.errors import UserError
from tsv_exp.report.results.runs import read_runs


def test_reads_any_set_of_folders_in_natural_order(tmp_path: Path) -> None:
    for run in range(11):
        write_run(tmp_path / "a" / "sweep" / str(run), results(seed=run))
    single = write_run(tmp_path / "b", results("ties", stored_bytes=2 * FULL))
    runs = read_runs([tmp_path / "a", single, single])
    assert [cell.seed for cell in runs.finished] == [*range(11), 0]
    ties = runs.finished[-1]
    assert (ties.model, ties.method, ties.tasks, ties.alpha) == ("tiny", "ties", TASKS, 1.0)
    assert ties.size == pytest.approx(2 / 4)
    assert runs.summary == "12 finished runs"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected an object, not list"),
        ('{"error": null}', "'status' is missing"),
        (json.dumps(results() | {"status": "perhaps"}), "status is 'perhaps'"),
        (json.dumps(results() | {"test": {}}), "'mean_accuracy' is missing"),
        (json.dumps(results() | {"tasks": 4}), "tasks is 4, not a list of names"),
        (json.dumps(results(alpha="1")), "alpha is '1', not a number"),
        (json.dumps(results(validation_passes="3")), "validation_passes is '3', not a number"),
        (
            json.dumps(results(validation=[{"alpha": 1, "mean_normalized": 1, "examples": "all"}])),
            "validation.0.examples is 'all', not a number",
        ),
        (json.dumps(results() | {"validation": [{"alpha": 1.0}]}), "'mean_normalized' is missing"),
        (json.dumps(results() | {"params": 3}), "params is 3, not a table of values"),
        (
            json.dumps(results(accuracy=(0.1, 0.2, float("nan"), 0.3))),
            "test.mean_accuracy is nan, not a number from 0 up",
        ),
    ],
)
def test_corrupt_results_cost_only_themselves(tmp_path: Path, content: str, reason: str) -> None:
    write_run(tmp_path / "0", content)
    write_run(tmp_path / "1", results())
    runs = read_runs([tmp_path])
    assert len(runs.finished) == 1
    (problem,) = runs.problems
    assert problem.folder == tmp_path / "0"
    assert reason in problem.reason
    assert "\n" not in problem.reason


def test_failed_runs_keep_their_error_in_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "0", failed("ties", "out of memory\n  on cpu"))
    runs = read_runs([tmp_path])
    assert [problem.reason for problem in runs.problems] == ["failed: out of memory on cpu"]
    assert runs.unsuccessful[0].tasks == TASKS


def write_composed(folder: Path, *overrides: str) -> None:
    """What Hydra writes before a run starts."""
    (folder / ".hydra").mkdir(parents=True)
    config = "{model: {_target_: m}, method: {name: ties, _target_: f, density: 0.2}, tasks: 14, seed: 3}"
    (folder / ".hydra" / "config.yaml").write_text(config)
    (folder / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {model: tiny, method: ties}}}")
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))


def test_a_run_without_results_is_unfinished(tmp_path: Path) -> None:
    write_composed(tmp_path)
    (cell,) = read_runs([tmp_path]).unsuccessful
    assert (cell.status, cell.model, cell.method, cell.count, cell.seed) == ("unfinished", "tiny", "ties", 14, 3)
    assert cell.params == {"density": 0.2}


def test_a_sweep_over_every_option_of_a_group(tmp_path: Path) -> None:
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": {"method": "glob(ts*)"}}
    plan = {"hydra": {"sweeper": sweeper, "overrides": {"task": ["tasks=8"]}}}
    (tmp_path / "multirun.yaml").write_text(json.dumps(plan))
    write_composed(tmp_path / "0", "method=tsv_m", "tasks=8")
    reasons = [problem.reason for problem in read_runs([tmp_path]).problems if problem.folder == tmp_path]
    assert "missing: no run of method=tsv_c" in reasons  # tasks=8 is the same in all runs of the sweep
    assert not any(reason.endswith(("method=tsv_m", "method=ties")) for reason in reasons)


def test_the_console_shows_the_first_of_many_missing_runs(tmp_path: Path) -> None:
    params = {"method": "ties,tsv_m", "seed": "1,2,3,4,5,6,7", "tasks": "8"}
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": params}
    (tmp_path / "multirun.yaml").write_text(json.dumps({"hydra": {"sweeper": sweeper, "overrides": {"task": []}}}))
    write_composed(tmp_path / "0", "method=ties", "seed=1", "tasks=8")
    runs = read_runs([tmp_path])
    lines = list(runs.problem_lines())
    assert len(runs.problems) == 14  # the composed run is unfinished
    assert lines[-2:] == [
        f"{tmp_path}: missing: no run of method=tsv_m seed=3",
        "and 4 more runs without results, which the report lists",
    ]


def test_runs_of_a_sweep_that_began_none_are_listed_on_request_only(tmp_path: Path) -> None:
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": {"method": "ties"}}
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").write_text(
        json.dumps({"hydra": {"sweeper": sweeper, "overrides": {"task": []}}})
    )
    write_run(tmp_path / "run", results())
    assert read_runs([tmp_path]).problems == ()
    assert [problem.reason for problem in read_runs([tmp_path], unlaunched=True).problems] == [
        "missing: no run of method=ties"
    ]


def test_a_run_with_a_router_is_not_missing(tmp_path: Path) -> None:
    params = {"method": "tsv_c,tsv_c+likelihood,tsv_c+mass"}
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": params}
    (tmp_path / "multirun.yaml").write_text(json.dumps({"hydra": {"sweeper": sweeper, "overrides": {"task": []}}}))
    write_composed(tmp_path / "0", "method=tsv_c")
    write_composed(tmp_path / "1", "method=tsv_c", "router=likelihood")
    reasons = [problem.reason for problem in read_runs([tmp_path]).problems if problem.folder == tmp_path]
    assert reasons == ["missing: no run of method=tsv_c+mass"]


@pytest.mark.parametrize("params", [{}, {"method": "ties,tsv_m"}, {"method": "emr", "tasks": "14,20"}])
def test_runs_that_a_sweep_has_not_reached_are_missing(tmp_path: Path, params: dict[str, str]) -> None:
    asked = ["tasks=[Digits,Clock],8", "+x=1", *([] if params == {"method": "ties,tsv_m"} else ["method=ties,tsv_m"])]
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": params}
    plan = {"hydra": {"sweeper": sweeper, "overrides": {"task": asked}}}
    (tmp_path / "multirun.yaml").write_text(json.dumps(plan))
    write_composed(tmp_path / "0", "method=ties", "tasks=[Digits,Clock]", "+x=1")
    write_composed(tmp_path / "1", "method=ties", "tasks=8", "+x=1")
    write_composed(tmp_path / "2", "method=tsv_m", "tasks=8", "+x=1")
    missing = [problem for problem in read_runs([tmp_path]).problems if problem.folder == tmp_path]
    (reason,) = (problem.reason for problem in missing)
    assert reason.startswith("missing: ")
    assert set(reason.split()[-2:]) == {"method=tsv_m", "tasks=[Digits,Clock]"}  # what differs in the sweep
    (tmp_path / "multirun.yaml").write_text("hydra: {}")
    assert "multirun.yaml cannot be read: 'sweeper' is missing" in [p.reason for p in read_runs([tmp_path]).problems]


def test_of_two_runs_of_a_cell_the_later_counts(tmp_path: Path) -> None:
    old = write_run(tmp_path / "2", results(accuracy=(0.1, 0.1, 0.1, 0.1), cell="k"))
    os.utime(old / "results.json", (1, 1))
    write_run(tmp_path / "1", results(accuracy=(0.9, 0.9, 0.9, 0.9), cell="k"))
    runs = read_runs([tmp_path])
    assert [cell.test["accuracy"]["Clock"] for cell in runs.finished] == [0.9]
    assert runs.replaced == 1
    assert runs.summary == "1 finished run, 1 older run of the same cells left out"


def test_nothing_but_the_key_makes_two_runs_the_same_cell(tmp_path: Path) -> None:
    for number, cell in enumerate(("k", "l", "", "")):
        write_run(tmp_path / str(number), results(cell=cell))
    runs = read_runs([tmp_path])
    assert len(runs.finished) == 4
    assert runs.replaced == 0


def test_settings_differ_by_parameters_and_given_alpha(tmp_path: Path) -> None:
    write_run(tmp_path / "0", results(params={"rank_fraction": 0.1}))
    write_run(tmp_path / "1", results(params={"rank_fraction": 0.2}))
    write_run(tmp_path / "2", results(curve={}, alpha=0.5))
    write_run(tmp_path / "3", results(curve={}, alpha=0.7))
    write_run(tmp_path / "4", results(checkpoints={"family": "other"}))
    runs = read_runs([tmp_path])
    assert len({cell.key for cell in runs.finished}) == len(runs.finished) == 5


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no runs"):
        read_runs([tmp_path])


def test_needs_neither_torch_nor_wandb_nor_a_plot_library_to_start() -> None:
    heavy = ["torch", "open_clip", "wandb", "matplotlib", "jinja2", "pandas", "numpy"]
    code = f"import sys, tsv_exp.report; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
