"""tsv-exp in a process of its own, on a benchmark of two tasks that trains in a second."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import forked

SMALL = [
    "tasks=2",
    "model.finetune.steps=3",
    "model.data.train=64",
    "model.data.validation=20",
    "model.data.test=20",
    "evaluate.precision=float32",
]


def tsv_exp(*arguments: str, folder: Path, timeout: float = 300) -> CompletedProcess[str]:
    """The command; outputs and cache lie in `folder`."""
    words, environment = _settings(arguments, folder)
    return forked.command("exp", *words, cwd=folder, env=environment, timeout=timeout)


def tsv_exp_in_an_interpreter(*arguments: str, folder: Path) -> CompletedProcess[str]:
    """The same in a fresh interpreter, for launchers whose workers a fork would wait for."""
    words, environment = _settings(arguments, folder)
    command = [sys.executable, "-m", "tsv_exp.commands.exp", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def _settings(arguments: Sequence[str], folder: Path) -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "TSV_EXP_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    return [*arguments, f"paths.outputs={folder}/outputs"], environment


def results(folder: Path) -> list[dict[str, Any]]:
    """Every results.json below `folder`, in the order in which their runs began."""
    found = sorted(folder.glob("outputs/**/results.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]
