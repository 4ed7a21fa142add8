"""Run folders written by hand, for the tests of everything downstream of results.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TASKS = ("Digits", "Greek", "Shapes", "Clock")
FULL = 1_000_000  # bytes of a checkpoint


def results(
    method: str = "tsv_m",
    accuracy: Sequence[float] = (0.9, 0.8, 0.7, 0.6),
    *,
    tasks: Sequence[str] = TASKS,
    finetuned: float = 0.95,
    curve: Mapping[float, float] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """A finished run's results.json; `curve` maps α to mean normalized validation accuracy."""
    curve = {0.5: 0.7, 1.0: 0.8, 1.5: 0.75} if curve is None else curve
    test = dict(zip(tasks, accuracy, strict=True))
    normalized = {task: value / finetuned for task, value in test.items()}
    return {
        "status": "ok",
        "error": None,
        "seed": 0,
        "model": "tiny",
        "tasks": list(tasks),
        "method": method,
        "params": {},
        "checkpoints": {"family": "tiny", "digests": {"base": "00"}},
        "alpha": max(curve, key=lambda value: curve[value]) if curve else 1.0,
        "chosen": {"lambda": {}, "rank": {}},
        "validation": [
            {
                "alpha": a,
                "mean_accuracy": v * finetuned,
                "mean_normalized": v,
                "accuracy": dict.fromkeys(tasks, v * finetuned),
            }
            for a, v in curve.items()
        ],
        "finetuned": {"validation": dict.fromkeys(tasks, finetuned), "test": dict.fromkeys(tasks, finetuned)},
        "test": {
            "accuracy": test,
            "normalized": normalized,
            "mean_accuracy": sum(test.values()) / len(test),
            "mean_normalized": sum(normalized.values()) / len(test),
            "standard_error": 0.0123,
        },
        "seconds": {"load": 1.0, "merge": 0.5, "select": 3.0, "test": 2.0},
        "stored_bytes": FULL,
        "stored_bytes_without_base": FULL,
        "checkpoint_bytes": FULL,
        "data": dict.fromkeys(tasks, "dd"),
        "precision": "float32",
        "per_task": False,
        "versions": {"torch": "2"},
    } | changes


def write_run(folder: Path, content: Mapping[str, Any] | str) -> Path:
    """A run folder with this results.json (a mapping, or raw text)."""
    (folder / ".hydra").mkdir(parents=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "results.json").write_text(text, encoding="utf-8")
    return folder


def failed(method: str, error: str, **changes: Any) -> dict[str, Any]:
    """A failed run's results.json."""
    return results(method) | {"status": "failed", "error": error, "test": {}, "alpha": None, "validation": []} | changes
