"""How good `alpha=race` is: replayed on recorded grids of predictions, beside what the whole grid chooses.

    OMP_NUM_THREADS=1 python benchmarks/race.py GRIDS [LARGE] --out benchmarks/results/race.json

GRIDS are folders of benchmarks/race_grids.py (images and texts). A race is good if it chooses the grid's value or loses
at most 0.1 points of mean normalized validation accuracy on all images. Fails unless 95 % of the races are good within
3 passes. Images that a value was not recorded on, since it was surely not the best, count as wrong; `unrecorded` counts
those asked for.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from race_grids import MISSING

from tsv_exp.evaluation.alpha.race import race

ERROR, PASSES = 0.05, 3.0
POINTS, SHARE = 0.1, 0.95


def replay(path: Path) -> dict[str, Any]:
    """One grid: the race's α beside the grid's, what it loses, its passes, and on how many images it decided."""
    with np.load(path) as stored:
        grid: Mapping[str, NDArray[Any]] = dict(stored)
    predictions, labels, finetuned = grid["predictions"], grid["labels"], grid["finetuned"]
    rows, tasks = (part.flatten() for part in np.indices(labels.T.shape))  # recorded images are in a random order
    weights = 1 / finetuned / len(finetuned)

    missing = np.zeros(len(predictions), np.int64)

    def predict(value: int, asked: NDArray[np.int64]) -> NDArray[np.int64]:
        found = predictions[value, tasks[asked], rows[asked]].astype(np.int64)
        missing[value] += (found == MISSING).sum()
        return found

    raced = race(len(predictions), tasks, labels[tasks, rows], weights, predict, ERROR, PASSES)
    whole = [value for value, found in enumerate(predictions) if (found != MISSING).all()]
    scores = {value: float((predictions[value] == labels).mean(1) @ weights) for value in whole}
    best = max(scores.values())
    choice = min(value for value in whole if scores[value] == best)
    assert raced.chosen in scores, f"{path}: a value won that was surely not the best"
    return {
        "grid": path.stem,
        "images": labels.size,
        "alpha": float(grid["alphas"][raced.chosen]),
        "grid_alpha": float(grid["alphas"][choice]),
        "loss": 100 * (best - scores[raced.chosen]),
        "passes": raced.asked / labels.size,
        "unrecorded": int(missing.sum()),
        "share_of_images": float(raced.examples[raced.chosen] / labels.size),
    }


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """How many races are good, how large losses are, and what they took."""
    losses = np.array([one["loss"] for one in found])
    passes = np.array([one["passes"] for one in found])
    return {
        "grids": len(found),
        "same": sum(one["alpha"] == one["grid_alpha"] for one in found),
        "good": int((losses <= POINTS + 1e-9).sum()),
        "share_good": float((losses <= POINTS + 1e-9).mean()),
        "loss": {"mean": losses.mean(), "95 %": float(np.quantile(losses, 0.95)), "largest": losses.max()},
        "passes": {"mean": passes.mean(), "most": passes.max()},
        "mean_share_of_images": float(np.mean([one["share_of_images"] for one in found])),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = [replay(path) for folder in args.folders for path in sorted(folder.glob("*.npz"))]
    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "all": summary(found)}
    for images in sorted({round(one["images"], -2) for one in found}):
        result[f"{images:,} images"] = summary([one for one in found if round(one["images"], -2) == images])
    for zoo in ("zoo0", "zoo1", "text"):
        if part := [one for one in found if one["grid"].endswith(zoo)]:
            result[zoo] = summary(part)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result | {"races": found}, indent=1) + "\n", encoding="utf-8")
    return 0 if result["all"]["share_good"] >= SHARE and result["all"]["passes"]["most"] <= PASSES else 1


if __name__ == "__main__":
    sys.exit(main())
