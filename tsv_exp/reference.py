"""The fine-tuned models' own accuracies: what every other accuracy is divided by; measured once and kept."""

import json
from collections.abc import Mapping
from pathlib import Path

from tsv_exp.engine import merge
from tsv_exp.evaluate import Evaluator
from tsv_exp.files import atomic, cache_dir, digest, locked
from tsv_exp.progress import track
from tsv_exp.task_vectors import Weights
from tsv_exp.tasks import SplitName


def weights_digest(weights: Weights) -> str:
    """What identifies these weights: the digest their reader knows, else the SHA-256 of names and values."""
    return getattr(weights, "digest", None) or digest(weights)


def finetuned_accuracies(
    evaluator: Evaluator,
    base: Weights,
    finetuned: Mapping[str, Weights],
    digests: Mapping[str, str],
    split: SplitName,
) -> dict[str, float]:
    """Task -> accuracy (a fraction) of its fine-tuned model on a split, from the cache or measured now."""
    accuracies: dict[str, float] = {}
    for name in track(evaluator.tasks, f"fine-tuned models on {split}"):
        identity = evaluator.model.identity(evaluator.tasks[name])
        key = digest(digests["base"], digests[name], identity, split, str(evaluator.dtype))
        path = cache_dir() / "accuracies" / f"{key[:32]}.json"
        with locked(path):
            known = _read(path)
            if known is None:
                individual = merge(base, {name: finetuned[name]}, "individual")
                known = evaluator.accuracy(individual, 1.0, name, split)
                with atomic(path) as temporary:
                    temporary.write_text(json.dumps(known), encoding="utf-8")
        accuracies[name] = known
    return accuracies


def _read(path: Path) -> float | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, float) and 0 <= value <= 1 else None
