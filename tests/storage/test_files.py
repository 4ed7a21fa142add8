import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from rich.console import Console

from tsv_exp.errors import UserError
from tsv_exp.storage import files

HOLD_LOCK = "from tsv_exp.storage.files import locked\nwith locked({path!r}): print(flush=True); input()"
WRITE = """
from tsv_exp.storage.files import atomic
with atomic({path!r}) as path:
    path.write_text("half"); print(flush=True); input()
"""


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has printed its first line, until it is told to go on or killed."""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started
        started.kill()


def partial(folder: Path) -> list[Path]:
    return list(folder.glob(f".*{files.PARTIAL}"))


def test_temporary_files_of_the_living_stay_and_of_the_dead_go(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with process(WRITE.format(path=str(path))) as other:
        (half,) = partial(tmp_path)
        assert f"-{other.pid}." in half.name
        with files.atomic(path) as mine:
            assert {half, mine} == set(partial(tmp_path))
            mine.write_text("whole")
        files.clear_partial_files(tmp_path, "*")
        assert partial(tmp_path) == [half]
        other.kill()
        other.wait()
        assert partial(tmp_path) == [half]
        with files.atomic(path) as mine:
            mine.write_text("whole again")
    assert partial(tmp_path) == []
    assert path.read_text() == "whole again"


def test_hidden_files_of_others_are_not_cleared(tmp_path: Path) -> None:
    for name in (".gitignore", ".notes.txt", ".a.b.c", "x.partial"):
        (tmp_path / name).touch()
    files.clear_partial_files(tmp_path, "*")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_cleared_between_its_making_and_its_marking_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []
    true = files.hold

    def late(handle: int) -> bool:
        attempts.append(handle)
        if len(attempts) == 1:
            files.clear_partial_files(tmp_path, "*")
        return true(handle)

    monkeypatch.setattr(files, "hold", late)
    with files.atomic(tmp_path / "x") as path:
        path.write_text("here")
    assert (tmp_path / "x").read_text() == "here"
    assert len(attempts) == 2


def test_who_waits_says_for_whom_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(files, "console", Console(file=text, width=10))
    monkeypatch.setattr(files, "NOTICE", 0.1)
    path = tmp_path / "factors"
    with process(HOLD_LOCK.format(path=str(path))) as other:
        other.send_signal(signal.SIGSTOP)
        with files.locked(path, 0.3) as held:
            assert not held
        assert text.getvalue() == f"waiting for {path}.lock, held by process {other.pid} on {os.uname().nodename}\n"
        with files.locked(path, 0) as held:
            assert not held
        other.kill()
        with files.locked(path) as held:
            assert held
    assert text.getvalue().count("\n") == 1


def test_hints_fit_the_cause(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Not a directory|File exists") as found, files.atomic(tmp_path / "file" / "x"):
        pass
    assert "free space" not in str(found.value)
    with pytest.raises(UserError, match="choose a shorter name"), files.atomic(tmp_path / ("x" * 300)):
        pass


def test_names_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    with files.atomic(tmp_path / ("x" * 255)) as path:
        path.write_text("here")
    assert (tmp_path / ("x" * 255)).read_text() == "here"


def test_the_limit_on_the_size_of_files(tmp_path: Path) -> None:
    code = f"""
import resource, tsv_exp.storage.files as files
from tsv_exp.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with files.atomic({str(tmp_path / "x")!r}) as path, path.open("wb") as file:
        file.write(bytes(5000))
except UserError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "ulimit -f" in told
    assert list(tmp_path.iterdir()) == []


def test_few_file_handles(tmp_path: Path) -> None:
    opened = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with suppress(OSError):
            while True:
                opened.append(os.dup(0))
        with pytest.raises(UserError, match="ulimit -n"), files.atomic(tmp_path / "x"):
            pass
    finally:
        for handle in opened:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    code = f"""
import os
from tsv_exp.storage.files import atomic
for _ in range(100):
    with atomic({str(tmp_path / "x")!r}) as path:
        path.write_text(str(os.getpid()) * 1000)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert (tmp_path / "x").read_text() in {str(writer.pid) * 1000 for writer in writers}
    assert partial(tmp_path) == []


def test_the_cache_in_use_comes_before_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "environment"))
    files.use_cache(tmp_path / "given")
    assert files.cache_dir() == tmp_path / "given"
    files.use_cache(None)
    assert files.cache_dir() == tmp_path / "environment"
