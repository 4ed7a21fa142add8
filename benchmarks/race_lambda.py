"""How good the choice of λ is where `alpha=race` infers predictions, beside the choice from all of them.

    OMP_NUM_THREADS=1 python benchmarks/race_lambda.py --out benchmarks/results/race_lambda.json

TALL masks on 8, 14 and 20 tasks of the embedded benchmark and of `model=small` (1,200 validation images a task, of a
data seed of their own) and on 8 and 14 of the text benchmark (its validation texts). Every task is one choice of five
values. A choice is good if it is that from all predictions, or loses at most 0.1 points of validation accuracy.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from zoos import ConfiguredZoo

from tsv_exp.api import merge
from tsv_exp.evaluation.alpha.inference import inferred
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.methods.specification.method import Method

METHOD = Method.load("tall_mask")
MODELS = {  # overrides, numbers of tasks, and what is drawn in place of the model's validation images
    "tiny": (("model=tiny",), (8, 14, 20), {"seed": 77, "validation": 1200}),
    "small": (("model=small",), (8, 14, 20), {"seed": 77, "validation": 1200}),
    "minilm": (("model=minilm", "model.validation=null"), (8, 14), {}),
}
POINTS = 0.1


def predicted(zoo: ConfiguredZoo, evaluator: Evaluator, value: float) -> list[NDArray[np.int64]]:
    """The predictions (n,) of every task's own masked model for its validation examples."""
    assert METHOD.tune is not None
    models = zoo.models(len(evaluator.tasks))
    merged = merge(zoo.base, models, METHOD.tuner(value))
    rows = {task: torch.arange(count) for task, count in evaluator.counts("validation").items()}
    return [evaluator.predictions(merged, 1.0, task, task, "validation", every).numpy() for task, every in rows.items()]


def _of(whole: NDArray[np.int64], value: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return whole[value, rows]


def choices(name: str, count: int, zoo: ConfiguredZoo) -> list[dict[str, Any]]:
    """One choice per task."""
    assert METHOD.tune is not None
    values = METHOD.tune.values
    evaluator = Evaluator(zoo.model, zoo.tasks[:count], zoo.evaluator.device)
    measured = [predicted(zoo, evaluator, value) for value in values]
    found = []
    for index, task in enumerate(evaluator.tasks):
        whole, labels = np.stack([one[index] for one in measured]), evaluator.labels(task, "validation").numpy()
        guessed, asked = inferred(len(values), len(labels), partial(_of, whole))
        scores = (whole == labels).mean(1)
        chosen = int((guessed == labels).mean(1).argmax())
        found.append(
            {
                "grid": f"{name}, {count} tasks, {task}",
                "examples": len(labels),
                "lambda": values[chosen],
                "grid_lambda": values[int(scores.argmax())],
                "loss": 100 * float(scores.max() - scores[chosen]),
                "passes": asked / len(labels),
            }
        )
    return found


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many choices are good, the largest loss in points, and the passes."""
    good = [one["loss"] <= POINTS + 1e-9 for one in found]
    return {
        "choices": len(found),
        "same": sum(one["lambda"] == one["grid_lambda"] for one in found),
        "good": sum(good),
        "largest_loss": max(one["loss"] for one in found),
        "mean_passes": float(np.mean([one["passes"] for one in found])),
        "most_passes": max(one["passes"] for one in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv])}
    every: list[dict[str, Any]] = []
    for name in args.models:
        overrides, sizes, drawn = MODELS[name]
        zoo = ConfiguredZoo(overrides, max(sizes))
        if drawn:
            zoo.model.data = replace(zoo.model.data, **drawn)
        for size in sizes:
            found = choices(name, size, zoo)
            result[f"{name}, {size} tasks"] = summary(found)
            print(name, size, result[f"{name}, {size} tasks"], flush=True)
            every += found
    result["all"] = summary(every)
    print(json.dumps(result["all"], indent=1))
    if args.out:
        args.out.write_text(json.dumps(result | {"races": every}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
