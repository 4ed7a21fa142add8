"""The commands that kill.py ends at random moments: their inputs, their arguments and what must come out."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SMALL = ["model.data.train=64", "model.data.validation=20", "model.data.test=20", "evaluate.precision=float32"]
VARYING = {"seconds", "versions", "reused_from", "error", "environment", "provenance"}  # keys of results.json


def models(folder: Path) -> list[str]:
    """Write weights of three tasks with 8 layers; returns the arguments to merge them."""
    g = torch.Generator().manual_seed(0)
    base = {f"{i}.weight": torch.randn(256, 192, generator=g) for i in range(8)}
    save_file(base, folder / "base.safetensors")
    for task in "abc":
        tuned = {name: weight + 0.05 * torch.randn(weight.shape, generator=g) for name, weight in base.items()}
        save_file(tuned, folder / f"{task}.safetensors")
    paths = ",".join(str(folder / f"{task}.safetensors") for task in "abc")
    return [f"base={folder / 'base.safetensors'}", f"models=[{paths}]"]


def files(folder: Path, *patterns: str) -> dict[str, str]:
    """Name -> digest of the files of these patterns."""
    found = (path for pattern in patterns for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)}


def cells(folder: Path) -> dict[str, Any]:
    """Method -> results of the last sweep, without values that differ in every run."""
    sweep = max(folder.glob("outputs/sweeps/*/*"))
    found = [json.loads(path.read_text()) for path in sweep.glob("*/results.json")]
    return {one["method"]: {key: one[key] for key in sorted(one) if key not in VARYING} for one in found}


def commands(shared: Path) -> dict[str, tuple[Callable[[Path], list[str]], Callable[[Path], Any]]]:
    """Name -> its arguments for a folder, and the result in that folder."""
    words = models(shared)
    tiny = [*SMALL, "model.finetune.steps=3"]
    return {
        "tsv-merge": (
            lambda folder: [*words, f"out={folder / 'out'}", "shard_mb=0.2", "method=tsv_m"],
            lambda folder: files(folder / "out", "*.safetensors", "*.index.json"),
        ),
        "tsv-merge tsv_c": (
            lambda folder: [*words, f"out={folder / 'out'}", "shard_mb=0.2", "method=tsv_c"],
            lambda folder: files(folder / "out", "*.safetensors", "*.index.json", "merged.json"),
        ),
        "tsv-exp": (
            lambda folder: ["-m", "method=task_arithmetic,tsv_m", "tasks=2", *tiny,
                            f"paths.outputs={folder / 'outputs'}", f"paths.cache={folder / 'cache'}"],
            cells,
        ),
        "tsv-finetune": (
            lambda folder: ["model=tiny", "task=digits", *SMALL[:3], "finetune.batch_size=16", "epochs=4",
                            "save_every=3", f"output={folder}"],
            lambda folder: files(folder, "tiny/*.safetensors"),
        ),
        "tsv-analyze": (
            lambda folder: [*words, f"hydra.run.dir={folder / 'analysis'}"],
            lambda folder: files(folder / "analysis", "*.json", "*.csv", "*.md", "*.html", "plots/*"),
        ),
        "tsv-report": (
            lambda folder: [str(shared / "runs"), "--out", str(folder / "report")],
            lambda folder: files(folder / "report", "*.*", "plots/*"),
        ),
    }  # fmt: skip
