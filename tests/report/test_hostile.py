"""Results and analyses of strangers: what they hold is shown or refused in a line, and nothing of it runs."""

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import model_of
from synthetic import results, write_run

from tsv_exp.analyze.analysis import analyze
from tsv_exp.analyze.write import write_analysis
from tsv_exp.report.tables.formats.csv_text import csv_text
from tsv_exp.report.write import write_report

EVIL = '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(2)</script></svg>'
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one_layer = model_of(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)), torch.float32)
    folder = tmp_path_factory.mktemp("analyses") / "first"
    write_analysis(analyze(*one_layer), [], folder, "toy")
    return folder


@pytest.fixture
def foreign(analysis: Path, tmp_path: Path) -> Path:
    """A copy of an analysis, beside a good run."""
    write_run(tmp_path / "runs" / "good", results())
    return copied(analysis, tmp_path / "runs" / "foreign")


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plots of the good run, which take longest, where everything else is refused."""
    monkeypatch.setattr("tsv_exp.report.plots.pictures.draw_pictures", lambda *_, **__: [])


def copied(analysis: Path, folder: Path) -> Path:
    (folder / "plots").mkdir(parents=True)
    for path in analysis.rglob("*.*"):
        (folder / path.relative_to(analysis)).write_bytes(path.read_bytes())
    return folder


def edited(folder: Path, edit: Edit) -> None:
    """Change the page of the analysis in a folder."""
    content = json.loads((folder / "analysis.json").read_text())
    edit(content["page"])
    (folder / "analysis.json").write_text(json.dumps(content))


def report_of(folder: Path) -> tuple[str, list[str]]:
    report = write_report([folder], folder / "out")
    assert len(report.runs.finished) == 1
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    return page, [problem.reason for problem in report.runs.problems]


def test_pictures_of_strangers_are_images(foreign: Path) -> None:
    pictures = list((foreign / "plots").glob("*.svg"))
    pictures[0].write_text(EVIL)
    page, problems = report_of(foreign.parent)
    assert problems == []
    assert page.count('<img alt="') == len(pictures)
    assert "alert" not in page
    assert page.count("<script") == 1
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")


@pytest.mark.usefixtures("without_plots")
def test_pictures_are_taken_from_their_folder_only(analysis: Path, tmp_path: Path) -> None:
    names = ["../../outside", "/etc/passwd", "", ".", "..", "a/b", "a.b", "x" * 300, 3, None, "a\n"]
    write_run(tmp_path / "good", results())
    for kind in ("png", "svg"):
        (tmp_path / f"outside.{kind}").write_text("secret")
    for number, name in enumerate(names):
        edited(copied(analysis, tmp_path / str(number)), lambda page, name=name: page["pictures"][0].update(name=name))
    page, problems = report_of(tmp_path)
    assert len(problems) == len(names)
    assert all("not a valid analysis of tsv-analyze" in problem for problem in problems)
    assert "c2VjcmV0" not in page, "secret in base 64"


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/etc/hostname"), Path.mkdir])
def test_files_that_are_no_files_are_not_opened(foreign: Path, make: Callable[[Path], object]) -> None:
    picture = next((foreign / "plots").glob("*.svg"))
    picture.unlink()
    make(picture)
    (foreign.parent / "odd").mkdir()
    os.mkfifo(foreign.parent / "odd" / "results.json")
    _, problems = report_of(foreign.parent)
    assert len(problems) == 2


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


EDITS: list[Edit] = [
    lambda page: page.update(name=3),
    lambda page: page.update(name="x" * 10000),
    lambda page: page.update(sheets=3),
    lambda page: page["sheets"][0].update(headings=[]),
    lambda page: page["sheets"][0].update(least=10**30),
    lambda page: page["sheets"][0].update(title=["a"]),
    lambda page: page["sheets"][0]["lines"][0].update(entries=[]),
    lambda page: page["sheets"][0]["lines"][0].update(label=None),
    lambda page: page["sheets"][0]["lines"][0]["entries"][0].update(place=7),
    lambda page: page["sheets"][0]["lines"][0]["entries"][0].update(value="1"),
    lambda page: page["sheets"][0]["lines"][0]["entries"][0].update(text=None),
    lambda page: page["pictures"].append(3),
]


@pytest.mark.usefixtures("without_plots")
def test_an_analysis_of_wrong_kinds_costs_one_line(analysis: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "good", results())
    for number, edit in enumerate(EDITS):
        edited(copied(analysis, tmp_path / str(number)), edit)
    _, problems = report_of(tmp_path)
    assert len(problems) == len(EDITS)
    assert all("not a valid analysis of tsv-analyze" in problem and "\n" not in problem for problem in problems)


CONTENTS = [
    "[" * 100_000,
    json.dumps(results() | {"params": {"a": deep(900)}}),
    json.dumps(results() | {"settings": {"a": deep(20)}}),
    json.dumps(results() | {"checkpoint_bytes": 0.5}),
    json.dumps(results() | {"checkpoint_bytes": 0.5e-300}),
    json.dumps(results() | {"alpha": 10**400}),
    json.dumps(results() | {"stored_bytes": 10**400}),
    json.dumps(results() | {"seed": 10**400}),
    json.dumps(results() | {"seed": {"a": 1}}),
    json.dumps(results() | {"params": {"rank_fraction": 10**400}}),
    json.dumps(results() | {"model": "\ud800"}),
    json.dumps(results() | {"model": "\x1b[31m"}),
    json.dumps(results() | {"model": ["a"]}),
    json.dumps(results() | {"method": "x" * 5000}),
    json.dumps(results(tasks=["a", "b", "c", "\ud800"])),
    json.dumps(results() | {"checkpoints": 3}),
    json.dumps(results() | {"checkpoints": {"digests": {"base": True}}}),
    json.dumps(results() | {"data": {"Digits": 3}}),
    json.dumps(results() | {"alpha_protocol": {"policy": "fixed", "changed": {"value": "x"}}}),
    json.dumps({"status": "failed", "tasks": 10**400}),
]


@pytest.mark.usefixtures("without_plots")
def test_results_that_cannot_be_cost_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "good", results())
    for number, content in enumerate(CONTENTS):
        write_run(tmp_path / str(number), content)
    _, problems = report_of(tmp_path)
    assert len(problems) == len(CONTENTS)
    assert all(problem.startswith("results.json cannot be read") and len(problem) < 500 for problem in problems)


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    names = ["$x_{$", "$\\frac{1}{$", "a$b", "$$", "\\alpha$^2$", "=cmd|' /C calc'!A0", "<b>&", "%&~^{}"]
    accuracies = [0.6 + at / 100 for at in range(len(names))]
    for number, name in enumerate(names):
        write_run(tmp_path / str(number), results(name, accuracies, tasks=names))
    report = write_report([tmp_path], tmp_path / "out")
    assert report.runs.problems == ()
    plots = list((tmp_path / "out" / "plots").glob("tasks-*.svg"))
    assert len(plots) == 2  # for wide and for narrow screens
    for plot in plots:
        text = plot.read_text(encoding="utf-8")
        for name in names:  # as a task, and as a method
            shown = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            assert text.count(f">{shown}</text>") >= 2, name


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_spreadsheets_compute_no_text(text: str) -> None:
    header, row = csv.reader(io.StringIO(csv_text([text, "b"], [[text, -1.5]]), newline=""))
    assert header[0] == row[0] == f"'{text}"
    assert row[1] == "-1.5"


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write_run(folder / "0", "{")
    write_run(folder / "1", results())
    page, _ = report_of(folder)
    assert "caf\\udce9" in page


@pytest.mark.usefixtures("without_plots")
def test_plans_that_do_not_end(tmp_path: Path) -> None:
    write_run(tmp_path / "good", results())
    sweep = {"params": {"seed": "range(0,1000000000000)"}, "_target_": "hydra._internal.BasicSweeper"}
    plan = json.dumps({"hydra": {"sweeper": sweep, "overrides": {"task": []}}})
    for number, text in enumerate(
        [plan, "[" * 5000, "a: &a [1]\nb: [*a, *a]", "hydra: 3", plan.replace("range(", "(((")]
    ):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "multirun.yaml").write_text(text)
    _, (endless, *damaged) = report_of(tmp_path)
    assert endless == "multirun.yaml cannot be read: more than 100000 runs"
    assert len(damaged) == 4
    assert all(problem.startswith("multirun.yaml cannot be read") for problem in damaged)
