"""Python programs as forks of a process that has imported the large libraries: a start costs milliseconds.

A fresh interpreter spends two to seven seconds of CPU on these imports. The package itself is imported by the fork, so
that it reads the environment given here. Programs that are killed, or that test imports, start fresh interpreters.
"""

import atexit
import os
import sys
from collections.abc import Mapping
from importlib import reload
from multiprocessing import get_context
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "open_clip", "transformers", "hydra", "matplotlib.pyplot", "sklearn.metrics"])
_OF_THE_HUB = ("huggingface_hub", "transformers", "open_clip", "timm")


def run(code: str, *words: str, cwd: Path, env: Mapping[str, str], timeout: float = 300) -> CompletedProcess[str]:
    """Run Python code as `python -c CODE WORDS` in a folder, with exactly these environment variables."""
    with TemporaryDirectory() as folder:
        out, err = Path(folder) / "stdout", Path(folder) / "stderr"
        process = _CONTEXT.Process(target=_fork, args=(code, words, str(cwd), dict(env), str(out), str(err)))
        process.start()
        process.join(timeout)
        late = process.is_alive()
        process.kill()
        process.join()
        found = [path.read_text(encoding="utf-8") if path.exists() else "" for path in (out, err)]
        assert not late, f"{words}: not done after {timeout} s: {found}"
        assert process.exitcode is not None
        return CompletedProcess(words, process.exitcode, *found)


def command(name: str, *words: str, cwd: Path, env: Mapping[str, str], timeout: float = 300) -> CompletedProcess[str]:
    """Run one of the package's commands, `exp` for `tsv-exp`."""
    code = f"import sys; from tsv_exp.commands.main import {name} as run; sys.exit(run())"
    return run(code, *words, cwd=cwd, env=env, timeout=timeout)


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
