"""Weights & Biases: what offline mode wrote is read back."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb_files
from synthetic import failed, results, write_run

from tsv_exp.errors import UserError
from tsv_exp.report.results.runs import Runs
from tsv_exp.report.tables.sheets import Entry, Line, Sheet
from tsv_exp.report.write import Report, write_report
from tsv_exp.tracking.protocol import Description
from tsv_exp.tracking.wandb import WandbRun, WandbTracker

CONFIG = {"model": {"name": "tiny"}, "tasks": 4, "method": {"name": "tsv_m", "rank_fraction": None}}
GIVEN = results(curve={0.5: 0.7, 1.0: 0.8})


def track(folder: Path, content: dict[str, Any], group: str | None = None, **changes: Any) -> list[Any]:
    """The records of a run that is opened, tells its curve, and ends."""
    write_run(folder, content)
    about = {"name": "tsv_m T=4", "kind": "run", "folder": folder, "group": group, "config": CONFIG} | changes
    run = WandbTracker().open(Description(**about))
    run.stage("select")
    for point in content["validation"]:
        run.point(point)
    run.results(content, folder)
    run.close(0 if content["status"] == "ok" else 1)
    return wandb_files.records(folder)


def header(written: list[Any]) -> Any:
    return next(record.run for record in written if record.HasField("run"))


def exit_code(written: list[Any]) -> int:
    return next(int(record.exit.exit_code) for record in written if record.HasField("exit"))


def artifacts(written: list[Any]) -> dict[str, set[str]]:
    """Type -> names of files of the artifacts that a run gave."""
    found = [record.request.log_artifact.artifact for record in written if record.HasField("request")]
    found += [record.artifact for record in written if record.HasField("artifact")]
    return {one.type: {entry.path for entry in one.manifest.contents} for one in found if one.type}


def test_a_single_run_is_read_back(tmp_path: Path) -> None:
    written = track(tmp_path / "run", GIVEN, tags=["draft"], notes="a try")
    told = header(written)
    assert (told.display_name, told.job_type, told.run_group) == ("tsv_m T=4", "run", "")
    assert (list(told.tags), told.notes) == (["draft"], "a try")
    assert {name: wandb_files.config(written)[name] for name in CONFIG} == CONFIG
    curve = [step for step in wandb_files.history(written) if "alpha" in step]
    assert [(step["alpha"], step["validation/mean_normalized"]) for step in curve] == [(0.5, 0.7), (1.0, 0.8)]
    assert curve[0]["validation/accuracy/Digits"] == pytest.approx(0.7 * 0.95)
    found = wandb_files.summary(written)
    assert found["test/accuracy/Digits"] == 0.9
    assert found["test/mean_accuracy"] == pytest.approx(0.75)
    assert (found["alpha"], found["status"], found["seconds/merge"], found["stage"]) == (1.0, "ok", 0.5, "select")
    assert exit_code(written) == 0
    assert artifacts(written)["results"] == {"results.json"}


def test_the_summary_is_the_value_at_the_chosen_alpha(tmp_path: Path) -> None:
    content = results(curve={0.5: 0.7, 1.0: 0.8, 1.5: 0.6})  # the last point is not the chosen one
    found = wandb_files.summary(track(tmp_path / "run", content, "sweep"))
    assert found["validation/mean_normalized"] == 0.8


def test_a_single_run_has_its_table_and_pictures(tmp_path: Path) -> None:
    track(tmp_path / "run", results())
    (table,) = tmp_path.glob("run/wandb/offline-run-*/files/media/table/**/*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == [
        "method",
        "Digits",
        "Greek",
        "Shapes",
        "Clock",
        "average",
        "normalized",
        "alpha",
        "size",
    ]
    assert content["data"] == [["tsv_m", 90.0, 80.0, 70.0, 60.0, 75.0, 78.95, "1", 0.25]]
    names = {path.name for path in tmp_path.glob("run/wandb/offline-run-*/files/media/images/**/*.png")}
    assert {name.split("_")[0] for name in names} >= {"average-tiny-4-tasks", "alpha-tiny-4-tasks"}


def test_keys_have_neither_spaces_nor_commas(tmp_path: Path) -> None:
    written = track(tmp_path / "run", results(tasks=("a, b", "c d", "e", "f")))
    keys = {name for step in [*wandb_files.history(written), wandb_files.summary(written)] for name in step}
    assert "validation/accuracy/a-b" in keys
    assert [name for name in keys if " " in name or "," in name] == []


def test_a_failed_run_is_failed(tmp_path: Path) -> None:
    written = track(tmp_path / "run", failed("ties", "no memory"), "sweep-1")
    found = wandb_files.summary(written)
    assert (found["status"], found["error"], exit_code(written)) == ("failed", "no memory", 1)
    assert header(written).run_group == "sweep-1"


def test_the_report_of_a_sweep_links_what_was_reused(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    write_run(sweep / "0", results("tsv_m"))
    run = WandbTracker().open(Description("report", "report", tmp_path, "sweep-1"))
    run.report(write_report([sweep], sweep), [{"method": "tsv_m", "tracked": "me/x/abc", "reused_from": "there"}])
    run.close(0)
    written = wandb_files.records(tmp_path)
    assert (header(written).run_group, header(written).job_type) == ("sweep-1", "report")
    media = tmp_path.glob("wandb/offline-run-*/files/media/*/**/*")
    assert {path.suffix for path in media if path.is_file()} == {".json", ".png", ".html"}
    (reused,) = tmp_path.glob("wandb/offline-run-*/files/media/table/reused*.table.json")
    assert json.loads(reused.read_text())["data"] == [["tsv_m", "me/x/abc", "there"]]
    assert "report.html" in artifacts(written)["report"]


def test_the_tables_of_an_analysis_are_tables(tmp_path: Path) -> None:
    line = Line("fc1, fc2", (Entry("8", value=8), Entry("2–4"), Entry("1235", value=1234.5)))
    sheet = Sheet("Interference", "By layer", ("k", "rank", "STI"), (line,), "", 3, first="layer")
    run = WandbTracker().open(Description("analysis", "analysis", tmp_path, "analyze"))
    run.report(Report(Runs((), (), ()), (), (sheet,), ()), ())
    run.close(0)
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/**/*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["layer", "k", "rank", "STI"]
    assert content["data"] == [["fc1, fc2", 8, None, 1234.5]]


def test_weights_are_an_artifact_on_request(tmp_path: Path) -> None:
    weights = tmp_path / "merged.safetensors"
    weights.write_bytes(b"weights")
    content = GIVEN | {"saved": [str(weights)]}
    for wanted in (False, True):
        folder = write_run(tmp_path / str(wanted), content)
        run = WandbTracker(weights=wanted).open(Description("tsv_m", "run", folder, "sweep"))
        run.results(content, folder)
        run.close(0)
        found = artifacts(wandb_files.records(folder))
        assert found.get("model") == ({"merged.safetensors"} if wanted else None)


def test_online_the_checkpoints_are_what_a_run_used(tmp_path: Path) -> None:
    calls: list[tuple[str, Any]] = []
    service = SimpleNamespace(
        id="abc",
        offline=False,
        config={},
        summary={},
        use_artifact=lambda artifact: calls.append(("used", artifact)),
        log_artifact=lambda artifact: calls.append(("made", artifact)),
    )
    WandbRun(service, alone=False, weights=False).results(GIVEN, write_run(tmp_path / "run", GIVEN))
    assert [(what, artifact.type) for what, artifact in calls] == [("used", "checkpoints"), ("made", "results")]
    assert calls[0][1].metadata == GIVEN["checkpoints"]["digests"]


def test_an_unknown_mode_is_refused_before_the_run() -> None:
    with pytest.raises(UserError, match="mode=sometimes: choose offline or online"):
        WandbTracker(mode="sometimes")  # type: ignore[arg-type]
