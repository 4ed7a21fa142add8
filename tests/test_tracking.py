"""Tracking: what offline mode wrote is read back; what fails costs nothing but a line."""

import json
import logging
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from synthetic import failed, results, write_run

from tsv_exp.config import conf_dir
from tsv_exp.errors import UserError
from tsv_exp.report.results.runs import Runs
from tsv_exp.report.tables.sheets import Entry, Line, Sheet
from tsv_exp.report.write import Report, write_report
from tsv_exp.tracking import Tracker, WandbTracker

CONFIG = {"model": {"name": "tiny"}, "tasks": 4, "method": {"name": "tsv_m", "rank_fraction": None}}


def records(folder: Path) -> list[Any]:
    """The records of the one run in `folder`: a LevelDB log (blocks of 32 KiB, headers of 7 bytes) of messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 10  # on a busy machine the service writes the last of them after finish() has returned
    while True:
        found = [Record.FromString(content) for content in _log(path.read_bytes())]
        if any(record.HasField("exit") for record in found) or time.monotonic() > until:
            return found
        time.sleep(0.05)


def _log(data: bytes) -> Iterator[bytes]:
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield parts
            parts = b""


def items(entries: Any) -> dict[str, Any]:
    """History, summary or config items as a plain mapping."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in entries}


def test_a_single_run_is_read_back(tmp_path: Path) -> None:
    WandbTracker().log_run(results(curve={0.5: 0.7, 1.0: 0.8}), CONFIG, tmp_path, None)
    written = records(tmp_path)
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for record in written:
        config |= items(record.run.config.update) | items(record.config.update)
        summary |= items(record.summary.update) | items(record.run.summary.update)
    history = [items(record.history.item) for record in written if record.HasField("history")]
    assert {name: config[name] for name in CONFIG} == CONFIG
    curve = [(step["alpha"], step["validation/mean_normalized"]) for step in history if "alpha" in step]
    assert curve == [(0.5, 0.7), (1.0, 0.8)]
    assert history[0]["validation/accuracy/Digits"] == pytest.approx(0.7 * 0.95)
    assert summary["test/accuracy/Digits"] == 0.9
    assert summary["test/mean_accuracy"] == pytest.approx(0.75)
    assert (summary["alpha"], summary["status"], summary["seconds/merge"]) == (1.0, "ok", 0.5)
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/**/*.table.json")
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
    names = {path.name for path in tmp_path.glob("wandb/offline-run-*/files/media/images/**/*.png")}
    assert {name.split("_")[0] for name in names} >= {"average-tiny-4-tasks", "alpha-tiny-4-tasks"}


def test_a_sweep_is_a_group_and_its_report_one_more_run(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    tracker = WandbTracker()
    contents = [results("tsv_m"), failed("ties", "no memory")]
    for number, content in enumerate(contents):
        write_run(sweep / str(number), content)
        tracker.log_run(content, CONFIG, tmp_path / str(number), "sweep-1")
    tracker.log_report(write_report([sweep], sweep), tmp_path / "report", "sweep-1")
    runs = [records(tmp_path / name) for name in ("0", "1", "report")]
    headers = [next(record.run for record in run if record.HasField("run")) for run in runs]
    assert [header.run_group for header in headers] == ["sweep-1"] * 3
    assert [header.job_type for header in headers] == ["run", "run", "report"]
    assert len({header.run_id for header in headers}) == 3
    assert all(any(record.HasField("exit") for record in run) for run in runs)  # each is finished
    summary: dict[str, Any] = {}
    for record in runs[1]:
        summary |= items(record.summary.update)
    assert (summary["status"], summary["error"]) == ("failed", "no memory")
    files = {path.suffix for path in tmp_path.glob("report/wandb/offline-run-*/files/media/*/**/*") if path.is_file()}
    assert files == {".json", ".png", ".html"}


def test_the_tables_of_an_analysis_are_tables(tmp_path: Path) -> None:
    line = Line("fc1, fc2", (Entry("8", value=8), Entry("2–4"), Entry("1235", value=1234.5)))
    sheet = Sheet("Interference", "By layer", ("k", "rank", "STI"), (line,), "", 3, first="layer")
    WandbTracker().log_report(Report(Runs((), (), ()), (), (sheet,), ()), tmp_path, "analyze")
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/**/*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["layer", "k", "rank", "STI"]
    assert content["data"] == [["fc1, fc2", 8, None, 1234.5]]


@pytest.mark.parametrize("error", [RuntimeError("the service\nis gone"), OSError(28, "No space left on device")])
def test_a_failure_is_one_line_of_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    import wandb

    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(wandb, "init", fail)
    with caplog.at_level(logging.WARNING):
        WandbTracker().log_run(results(), CONFIG, tmp_path, None)
        write_run(tmp_path / "0", results())
        WandbTracker().log_report(write_report([tmp_path], tmp_path), tmp_path, "sweep")
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert message.startswith("tracking: ")
        assert "\n" not in message
        assert str(error).split()[0] in message


def test_a_failure_while_logging_still_finishes_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = results() | {"validation": [{"alpha": 1.0, "accuracy": None, "mean": object()}]}
    WandbTracker().log_run(broken, CONFIG, tmp_path, "sweep")
    (message,) = (record.getMessage() for record in caplog.records if record.name.startswith("tsv_exp"))
    assert message.startswith("tracking: the run in ")
    assert any(record.HasField("exit") for record in records(tmp_path))


def test_interrupts_are_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def interrupt(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb, "init", interrupt)
    with pytest.raises(KeyboardInterrupt):
        WandbTracker().log_run(results(), CONFIG, tmp_path, None)


@pytest.mark.parametrize(("name", "kind"), [("none", Tracker), ("wandb", WandbTracker)])
def test_the_configuration_gives_the_trackers(name: str, kind: type[Tracker]) -> None:
    config = OmegaConf.load(conf_dir() / "tracking" / f"{name}.yaml")
    assert type(instantiate(config)) is kind


def test_an_unknown_mode_is_refused_before_the_run() -> None:
    with pytest.raises(UserError, match="mode=sometimes: choose offline or online"):
        WandbTracker(mode="sometimes")  # type: ignore[arg-type]


def test_no_tracking_writes_nothing_and_needs_no_wandb(tmp_path: Path) -> None:
    Tracker().log_run(results(), CONFIG, tmp_path, None)
    assert list(tmp_path.iterdir()) == []
    code = (
        "import sys; sys.modules['wandb'] = None; import tsv_exp.tracking as t; t.Tracker().log_run({}, {}, None, None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
