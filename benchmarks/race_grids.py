"""Records predictions of merged models on validation images for every α of a grid: the material of benchmarks/race.py.

    OMP_NUM_THREADS=1 python benchmarks/race_grids.py GRIDS

Methods × task sets × zoos of the embedded benchmark, 2,400 images a grid; a file NAME.npz per grid, and grids that are
there stay. On the first sixteenth of the images all values are recorded. Values that are then worse than the best by
more than 4.5 paired standard errors, √Σ d² / N of the paired differences d, are not recorded on the next sixteenth, and
so on at an eighth, a quarter and a half: the whole grid cannot choose them. Every second value is measured on all these
images, the values between on images where their neighbours differ; with --every all values are measured.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from zoos import Zoo

from tsv_exp.api import merge
from tsv_exp.merging.engine import Merged
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.devices import mixed
from tsv_exp.storage.files import atomic
from tsv_exp.tasks.task import Split, Task

METHODS = ["tsv_m", "task_arithmetic", "ties", "iso_c", "iso_cts", "iso_reg", "consensus_ta", "dare_ties", "dc_merge"]
METHODS += ["tsv_m_no_orthogonalization", "wudi_closed", "actmat"]
SEEDS = ((0, 2412), (0, 0))  # of fine-tuning and data; the images here are drawn with another seed
IMAGES, DRAWN = 2400, 77  # validation images of a grid, and their seed
STAGES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
MISSING = 255
BATCH = 512


def task_sets(tasks: Sequence[Task], seed: int) -> dict[str, list[Task]]:
    """The papers' first 8, 14 and 20, and two random sets of 8."""
    rng = random.Random(seed)
    sets = {"first8": list(tasks[:8]), "random0": rng.sample(list(tasks), 8), "first14": list(tasks[:14])}
    return sets | {"random1": rng.sample(list(tasks), 8), "first20": list(tasks)}


def encode(visual: Any, images: Tensor) -> Tensor:
    """The features (B, d) of open_clip's vision transformer; its last block is computed for the class token alone."""
    tokens = visual._embeds(images)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    normed, token = last.ln_1(tokens), tokens[:, :1]
    token = token + last.ls_1(last.attn(normed[:, :1], normed, normed, need_weights=False)[0])
    token = token + last.ls_2(last.mlp(last.ln_2(token)))
    features: Tensor = visual.ln_post(token)[:, 0] @ visual.proj
    return features


class Images:
    """A zoo's validation images of its own, with the fine-tuned models' accuracies on them."""

    def __init__(self, zoo: Zoo) -> None:
        self.zoo, self.data = zoo, replace(zoo.model.data, seed=DRAWN)
        self.splits: dict[tuple[str, int], Split] = {}
        self.finetuned: dict[tuple[str, int], float] = {}

    def split(self, task: Task, count: int) -> Split:
        """The first `count` images of a task."""
        if (task.name, count) not in self.splits:
            drawn = replace(self.data, validation=count).split(task.name, "validation")
            self.splits[task.name, count] = drawn
            individual = merge(self.zoo.base, {task.name: self.zoo.finetuned[task.name]}, "individual")
            self.load(individual, 1.0, task)
            found = self.predict([task], [drawn.inputs])[0]
            self.finetuned[task.name, count] = float((found == drawn.labels.numpy()).mean())
        return self.splits[task.name, count]

    def load(self, merged: Merged, alpha: float, task: Task) -> None:
        """Put the merged model at α into the encoder; `task` is any of its tasks, or the one whose model it is."""
        self.zoo.evaluator._load_vector(merged, task.name)
        self.zoo.evaluator._set_alpha(alpha)

    @torch.inference_mode()
    def predict(self, tasks: Sequence[Task], images: Sequence[Tensor]) -> list[NDArray[np.uint8]]:
        """Predicted classes of each task's images, which are encoded together."""
        evaluator, model = self.zoo.evaluator, self.zoo.model
        found: list[NDArray[np.uint8]] = []
        with mixed(evaluator.dtype, evaluator.device):
            encoded = [
                encode(evaluator.encoder, model.prepare(part, evaluator.device))
                for part in torch.cat(list(images)).split(BATCH)
            ]
            for task, features in zip(tasks, torch.cat(encoded).split([len(one) for one in images]), strict=True):
                classes = model.predict(lambda features: features, features, task)
                found.append(classes.numpy().astype(np.uint8))
        return found


def record(images: Images, method: str, tasks: Sequence[Task], count: int, every: bool) -> dict[str, NDArray[Any]]:
    """Predictions (values, tasks, count) with labels (tasks, count); MISSING where a value was surely not the best."""
    merged = merge(images.zoo.base, {task.name: images.zoo.finetuned[task.name] for task in tasks}, method)
    scaling = Method.load(method).alpha
    alphas = [scaling.stop * i / scaling.steps for i in range(1, scaling.steps + 1)]
    splits = [images.split(task, count) for task in tasks]
    labels = np.stack([split.labels.numpy() for split in splits])
    finetuned = np.array([images.finetuned[task.name, count] for task in tasks])
    predictions = np.full((len(alphas), *labels.shape), MISSING, np.uint8)
    live, start = list(range(len(alphas))), 0
    for stage in STAGES:
        rows = slice(start, round(stage * count))
        part = predictions[:, :, rows]
        for position, value in [*enumerate(live)][::2] + [*enumerate(live)][1::2]:
            below, above = (live[max(0, position - 1)], live[min(len(live) - 1, position + 1)])
            between = position % 2 == 1 and above - below == 2 and not every
            alike = part[below] == part[above] if between else np.zeros_like(part[0], bool)
            wanted = [split.inputs[rows][~one] for split, one in zip(splits, alike, strict=True)]
            part[value] = part[below]
            if not alike.all():
                images.load(merged, alphas[value], tasks[0])
                part[value][~alike] = np.concatenate(images.predict(tasks, wanted))
        start = rows.stop
        correct = (predictions[live, :, :start] == labels[:, :start]) / finetuned[:, None]
        means = correct.mean((1, 2))
        lead = correct[means.argmax()] - correct
        errors = np.sqrt(np.square(lead).sum((1, 2))) / lead[0].size
        live = [value for value, gap, error in zip(live, lead.mean((1, 2)), errors, strict=True) if gap <= 4.5 * error]
    return {"alphas": np.array(alphas), "predictions": predictions, "labels": labels, "finetuned": finetuned}


def plan(zoos: Sequence[Zoo]) -> Iterator[tuple[str, Zoo, str, list[Task]]]:
    """Name, zoo, method and tasks of every grid."""
    sets = [task_sets(zoo.tasks, index) for index, zoo in enumerate(zoos)]
    for name in sets[0]:
        for method in METHODS:
            for index, zoo in enumerate(zoos):
                yield f"{method}-{name}-zoo{index}", zoo, method, sets[index][name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=IMAGES, help="of a grid")
    parser.add_argument("--every", action="store_true", help="measure all values")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    zoos = [Zoo(None, *seeds) for seeds in SEEDS]
    images = {id(zoo): Images(zoo) for zoo in zoos}
    for name, zoo, method, tasks in plan(zoos):
        path = args.folder / f"{name}.npz"
        if not path.exists():
            found = record(images[id(zoo)], method, tasks, args.images // len(tasks), args.every)
            with atomic(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **found)
            print(name, f"{(found['predictions'] != MISSING).mean() * len(found['alphas']):.1f} passes", flush=True)


if __name__ == "__main__":
    main()
