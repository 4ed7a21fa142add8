import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tsv_exp.runtime import console as progress


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    text = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=text, width=20))
    yield text
    progress.console.file.close()


def test_a_record_is_one_line_in_a_narrow_terminal(narrow: io.StringIO) -> None:
    message = "cannot write [folder]/with/a/long/path: no space left on device"
    progress.ConsoleHandler().emit(logging.LogRecord("x", logging.ERROR, "", 0, message, None, None))
    assert narrow.getvalue() == f"{message}\n"


def test_items_pass_through(narrow: io.StringIO) -> None:
    assert list(progress.track(range(3), "counting")) == [0, 1, 2]
    assert list(progress.track(iter("ab"), "without a length")) == ["a", "b"]


def test_stages_opened_inside_one_another_are_one_line(narrow: io.StringIO) -> None:
    with progress.bar("outer", 3) as (shown, outer):
        shown.advance(outer)
        with progress.bar("inner", None) as (inside, _):
            assert inside is shown
            assert progress.line(shown.tasks) == "outer 1/3 › inner"
        assert progress.line(shown.tasks) == "outer 1/3"
    assert not shown.tasks


def test_a_job_tells_its_line_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    seen = []
    with progress.progress_in_file(tmp_path, "method=ties"):
        for _ in progress.track(range(3), "scoring"):
            seen.append((tmp_path / progress.PROGRESS_FILE).read_text(encoding="utf-8"))
    assert [text.split(",")[0].split("  ")[0] for text in seen] == ["scoring 0/3", "scoring 1/3", "scoring 2/3"]
    assert all(text.endswith("  method=ties") for text in seen)
    assert "left" in seen[-1]
    assert not (tmp_path / progress.PROGRESS_FILE).exists()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_on_a_terminal_and_only_where_it_goes_nowhere_else(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), force_terminal=terminal))
    assert progress.on_terminal() is terminal
    with progress.bar("outer", 2):
        assert progress.on_terminal() is terminal
    with progress.progress_in_file(tmp_path, "method=ties"):
        assert not progress.on_terminal()
    with progress.silent():
        assert not progress.on_terminal()
    assert progress.on_terminal() is terminal


def test_without_a_terminal_stages_are_plain_lines_of_the_log(
    monkeypatch: pytest.MonkeyPatch, narrow: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LOGGED", 0.0)
    with caplog.at_level(logging.INFO), progress.bar("outer", 2) as (shown, outer), progress.bar("inner", None):
        shown.advance(outer)
    assert [message.partition(",")[0] for message in caplog.messages if "0/2" not in message] == [
        "outer",
        "inner",
        "outer 1/2 › inner",
    ]
    assert narrow.getvalue() == ""


def test_what_is_silent_says_nothing(narrow: io.StringIO, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), progress.silent():
        assert list(progress.track(range(3), "counting")) == [0, 1, 2]
    assert caplog.messages == []
    assert narrow.getvalue() == ""


def test_results_and_progress_have_different_streams(capsys: pytest.CaptureFixture[str]) -> None:
    progress.output.print("a table")
    progress.console.print("a stage")
    assert capsys.readouterr() == ("a table\n", "a stage\n")


def test_a_closed_pipe_does_not_end_the_work() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as file:
        console = progress.ResilientConsole(file=file)
        for _ in range(2):
            console.print("a line that nobody reads")
