"""A sweep that goes on from what earlier ones found, whatever ended them; what runs measure is made up here."""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from synthetic import results

from tsv_exp.commands import exp as cli
from tsv_exp.errors import UserError
from tsv_exp.runtime.console import PROGRESS_FILE, progress_in_file
from tsv_exp.runtime.interrupts import Ended
from tsv_exp.sweeps.callback import summary
from tsv_exp.sweeps.jobs import JobMonitor, ending

Command = Callable[..., int]


class Runs:
    """Stands for tsv_exp.run.run: notes what was run, and fails as it is told."""

    def __init__(self) -> None:
        self.methods: list[str] = []
        self.failures: dict[str, BaseException] = {}

    def __call__(self, cfg: DictConfig, folder: Path, *_: object) -> dict[str, Any]:
        self.methods.append(cfg.method.name)
        if cfg.method.name in self.failures:
            raise self.failures[cfg.method.name]
        content = results(cfg.method.name)
        return {name: value for name, value in content.items() if name not in ("status", "error", "params", "method")}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    monkeypatch.setattr("tsv_exp.run.run", made)
    monkeypatch.setattr("tsv_exp.report.plots.pictures.draw_pictures", lambda *_, **__: [])  # they take longest
    return made


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.chdir(tmp_path)

    def typed(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tsv-exp", *arguments])
        return cli.main()

    handlers = list(logging.getLogger().handlers)
    yield typed
    for handler in [one for one in logging.getLogger().handlers if one not in handlers]:
        handler.close()
    logging.getLogger().handlers = handlers


def sweep(tmp_path: Path, number: int) -> Path:
    return sorted(tmp_path.glob("outputs/sweeps/*/*"))[number]


def cells(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/results.json"))]
    return {entry["method"]: entry for entry in found}


def test_the_same_sweep_again_runs_what_is_missing(
    tmp_path: Path, command: Command, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.failures["ties"] = UserError("no room")
    assert command("-m", "method=zero_shot,ties,tsv_m") == 1
    assert summary(sweep(tmp_path, 0), 1) == "2 ran, 0 reused, 1 without results"
    runs.methods, runs.failures = [], {}
    assert command("-m", "method=zero_shot,ties,tsv_m,tsv_c") == 0
    assert runs.methods == ["ties", "tsv_c"]
    before, after = cells(sweep(tmp_path, 0)), cells(sweep(tmp_path, 1))
    for name in ("zero_shot", "tsv_m"):
        source = after[name].pop("reused_from")
        assert json.loads((Path(source) / "results.json").read_text(encoding="utf-8")) == after[name] == before[name]
    assert not any("reused_from" in after[name] for name in ("ties", "tsv_c"))
    for number in "0123":
        assert all((sweep(tmp_path, 1) / number / name).is_file() for name in ("table.md", ".hydra/overrides.yaml"))
    report = json.loads((sweep(tmp_path, 1) / "report.json").read_text(encoding="utf-8"))
    assert len(report["groups"][0]["rows"]) == 4
    assert report["problems"] == []


def test_a_run_of_its_own_always_runs_and_serves_sweeps(tmp_path: Path, command: Command, runs: Runs) -> None:
    assert command("method=tsv_m") == 0
    assert command("method=tsv_m") == 0
    assert runs.methods == ["tsv_m", "tsv_m"]
    assert command("-m", "method=tsv_m,tsv_c") == 0
    assert command("-m", "method=tsv_m,tsv_c", "seed=1") == 0
    assert command("-m", "method=tsv_m,tsv_c", "resume=false") == 0
    assert runs.methods[2:] == ["tsv_c", "tsv_m", "tsv_c", "tsv_m", "tsv_c"]


@pytest.mark.parametrize(("interrupt", "code"), [(KeyboardInterrupt(), 130), (Ended(15), 143), (Ended(1), 129)])
def test_an_interrupted_sweep_goes_on(
    tmp_path: Path,
    command: Command,
    runs: Runs,
    capsys: pytest.CaptureFixture[str],
    interrupt: KeyboardInterrupt,
    code: int,
) -> None:
    runs.failures["ties"] = interrupt
    assert command("-m", "method=zero_shot,ties,tsv_m") == code
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tsv-exp: ")]
    assert told.startswith("tsv-exp: interrupted")
    assert told.endswith("; finished runs are saved; run the same sweep again to reuse them")
    assert cells(sweep(tmp_path, 0))["ties"]["error"] == "interrupted"
    assert not list(tmp_path.glob(f"outputs/**/{PROGRESS_FILE}"))
    runs.methods, runs.failures = [], {}
    assert command("-m", "method=zero_shot,ties,tsv_m") == 0
    assert runs.methods == ["ties", "tsv_m"]


def test_an_interrupted_run_says_nothing_of_sweeps(
    tmp_path: Path, command: Command, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.failures["ties"] = Ended(15)
    assert command("method=ties") == 143
    assert "tsv-exp: interrupted by SIGTERM\n" in capsys.readouterr().err
    (found,) = tmp_path.glob("outputs/runs/*/*/results.json")
    assert json.loads(found.read_text(encoding="utf-8"))["error"] == "interrupted"


def test_the_progress_of_killed_runs_does_not_stay(tmp_path: Path, command: Command, runs: Runs) -> None:
    killed = tmp_path / "outputs" / "sweeps" / "2020-01-01" / "00-00-00" / "3" / PROGRESS_FILE
    killed.parent.mkdir(parents=True)
    killed.write_text("merging 2/20", encoding="utf-8")
    with progress_in_file(killed.parents[1] / "4", "method=ties"):
        assert command("-m", "method=zero_shot,tsv_m") == 0
        assert [path.parent.name for path in tmp_path.glob(f"outputs/sweeps/2020*/**/{PROGRESS_FILE}")] == ["4"]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["method.rank_fraction=2"], "tsv-exp: rank_fraction=2: it is a share"),
        (["-m", "method.rank_fraction=0.1,2"], "tsv-exp: rank_fraction=2: it is a share"),
        (["-m", "method=tsv_m,ties", "+method.sparsity=0.5"], "tsv-exp: method tsv_m: its keys do not fit"),
        (["-m", "alpha=0.3,-1"], "tsv-exp: alpha.value=-1: α must be"),
        (["device=cuda:99"], "tsv-exp: device=cuda:99: no such device on this machine"),
        (["-m", "method=ties,nope"], "tsv-exp: method=nope: there is no such option; choose from: ace, "),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    typed: list[str], line: str, tmp_path: Path, command: Command, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*typed) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(line)
    if "-m" in typed and "nope" not in line:
        assert re.search(r"\(in the run [^ ]+=.+\)$", said)
    assert runs.methods == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_sweeper_maximizes() -> None:
    assert cli.objective(results(curve={0.5: 0.7, 1.0: 0.8})) == 0.8
    assert cli.objective({"validation": []}) is None
    assert cli.objective({}) is None


def test_running_jobs_are_a_line_each_in_their_order(tmp_path: Path) -> None:
    for number in (10, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / PROGRESS_FILE).write_text(f"merging {number}/20", encoding="utf-8")
    assert JobMonitor(tmp_path, ends=False).lines() == ["#2 merging 2/20", "#10 merging 10/20"]


def test_how_a_run_ended_is_one_line() -> None:
    done = {"status": "ok", "method": "ties", "tasks": ["a", "b"], "seconds": {"load": 1.0, "test": 2.0}}
    assert ending(done) == "ties, 2 tasks: done in 3.0 s"
    assert ending(done | {"reused_from": "there"}) == "ties, 2 tasks: reused from there"
    assert ending(done | {"router": "mass", "tasks": ["cars"]}) == "ties + mass, 1 task: done in 3.0 s"
    assert ending({"status": "failed", "error": "no room"}) == "failed: no room"


def test_the_summary_counts(tmp_path: Path) -> None:
    for number, entry in enumerate([{"status": "ok"}, {"status": "ok", "reused_from": "x"}, {"status": "failed"}]):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "results.json").write_text(json.dumps(entry), encoding="utf-8")
    assert summary(tmp_path, 1) == "1 ran, 1 reused, 1 without results"
