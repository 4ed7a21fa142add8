"""Python programs as forks of a process that has imported the large libraries: a start costs milliseconds.

A fresh interpreter spends two to seven seconds of CPU on these imports. The package itself is imported by the fork, so
that it reads the environment given here. Programs that test imports start fresh interpreters.
"""

import atexit
import os
import socket
import sys
from collections.abc import Mapping
from importlib import reload
from multiprocessing import forkserver, get_context
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from unittest.mock import patch

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["preloaded"])
_OF_THE_HUB = ("huggingface_hub", "transformers", "open_clip", "timm")


class Program:
    """`python -c CODE WORDS` in a folder, with exactly these environment variables; it has been started."""

    def __init__(self, code: str, *words: str, cwd: Path, env: Mapping[str, str]):
        self.words = words
        self._folder = TemporaryDirectory()
        self._files = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        paths = [str(path) for path in self._files]
        self.process = _CONTEXT.Process(target=_fork, args=(code, words, str(cwd), dict(env), *paths))
        _ensure_server()
        self.process.start()

    def result(self, timeout: float = 300) -> CompletedProcess[str]:
        """Its end; it is killed, and the test fails, if it takes longer than `timeout` seconds."""
        self.process.join(timeout)
        late = self.process.is_alive()
        self.process.kill()
        self.process.join()
        found = [path.read_text(encoding="utf-8") if path.exists() else "" for path in self._files]
        self._folder.cleanup()
        assert not late, f"{self.words}: not done after {timeout} s: {found}"
        assert self.process.exitcode is not None
        return CompletedProcess(self.words, self.process.exitcode, *found)


def run(code: str, *words: str, cwd: Path, env: Mapping[str, str], timeout: float = 300) -> CompletedProcess[str]:
    """Run a program to its end."""
    return Program(code, *words, cwd=cwd, env=env).result(timeout)


def ranks(
    code: str, *words: str, count: int, cwd: Path, env: Mapping[str, str], timeout: float = 300
) -> list[CompletedProcess[str]]:
    """Run a program in `count` processes with the environment that torchrun gives, but without its supervision."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    numbers = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    programs = [Program(code, *words, cwd=cwd, env={**env, **shared, **own}) for own in numbers]
    return [program.result(timeout) for program in programs]


def entry(name: str) -> str:
    """The code of one of the package's commands, `exp` for `tsv-exp`."""
    return f"import sys; from tsv_exp.commands.main import {name} as run; sys.exit(run())"


def command(name: str, *words: str, cwd: Path, env: Mapping[str, str], timeout: float = 300) -> CompletedProcess[str]:
    """Run one of the package's commands, `exp` for `tsv-exp`."""
    return run(entry(name), *words, cwd=cwd, env=env, timeout=timeout)


def _ensure_server() -> None:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(paths)):  # the server is not told sys.path
        forkserver.ensure_running()


def _fork(code: str, words: tuple[str, ...], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        with open(path, "wb") as file:
            os.dup2(file.fileno(), number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = ["", *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["-c", *words]
    _read_hub_settings()
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()


def _read_hub_settings() -> None:
    """huggingface_hub reads the environment at its import, and other libraries copy what it read."""
    from huggingface_hub import constants

    before = vars(constants).copy()
    changed = {name for name, value in vars(reload(constants)).items() if name.isupper() and before.get(name) != value}
    for module in [one for name, one in sys.modules.items() if name.startswith(_OF_THE_HUB)]:
        for name in changed & vars(module).keys():
            if vars(module)[name] == before.get(name):
                setattr(module, name, getattr(constants, name))
