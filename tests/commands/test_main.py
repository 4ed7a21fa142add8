import gc
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest

import tsv_exp
from tsv_exp.commands import main as commands

SCRIPTS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """What a command leaves out of the garbage collection for its own sake, the tests' process gets back."""
    yield
    gc.unfreeze()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_answers_help(script: str, tmp_path: Path) -> None:
    """In a fork, where no other test has imported what the command itself imports late."""
    name = SCRIPTS[script].partition(":")[2]
    done = forked.command(name, "--help", cwd=tmp_path, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert script in done.stdout
    assert "powered by Hydra" not in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_tells_its_own_version(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--version"])
    assert getattr(commands, SCRIPTS[script].partition(":")[2])() == 0
    assert capsys.readouterr().out == f"{script} {tsv_exp.__version__}\n"


def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("main", "code"), [(interrupted, 130), (lambda: 1, 1), (lambda: None, 0)])
def test_exit_codes(
    main: Callable[[], int | None], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "import_frozen", lambda name: SimpleNamespace(main=main))
    assert commands.exp() == code
    assert capsys.readouterr().err == ("tsv-exp: interrupted\n" if code == 130 else "")


def test_until_a_command_can_be_interrupted_nothing_slow_is_imported() -> None:
    code = "import sys; before = set(sys.modules); import tsv_exp.commands.app.early; print(*set(sys.modules) - before)"
    told = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(told.split()) == {"tsv_exp", "tsv_exp.commands", "tsv_exp.commands.app", "tsv_exp.commands.app.early"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_while_it_is_loaded(number: int) -> None:
    code = f"import sys; sys.argv = ['bin/tsv-exp']; import tsv_exp.commands.main, os; os.kill(os.getpid(), {number})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + number, "tsv-exp: interrupted\n")
