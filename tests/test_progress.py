import io
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from tsv_exp import progress


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    text = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=text, width=20))
    yield text
    progress.console.file.close()


def test_a_record_is_one_line_in_a_narrow_terminal(narrow: io.StringIO) -> None:
    message = "cannot write [folder]/with/a/long/path: no space left on device"
    progress.Lines().emit(logging.LogRecord("x", logging.ERROR, "", 0, message, None, None))
    assert narrow.getvalue() == f"{message}\n"


def test_bars_inside_one_another_share_a_display(narrow: io.StringIO) -> None:
    with progress.bar("outer", 2) as (outer, _), progress.bar("inner", 2) as (inner, _):
        assert outer is inner
        assert [task.description for task in inner.tasks] == ["outer", "inner"]
    assert not outer.tasks


def test_items_pass_through(narrow: io.StringIO) -> None:
    assert list(progress.track(range(3), "counting")) == [0, 1, 2]
    assert list(progress.track(iter("ab"), "without a length")) == ["a", "b"]
