"""Records predictions of merged models on validation images for every α of a grid: the material of benchmarks/race.py.

    OMP_NUM_THREADS=1 python benchmarks/race_grids.py GRIDS
    OMP_NUM_THREADS=1 python benchmarks/race_grids.py GRIDS --text

Methods × task sets × zoos of the embedded benchmark, 2,400 images a grid; with --text methods × task sets of the text
benchmark (model=minilm), 250 texts a task. A file NAME.npz per grid, and grids that are there stay. On the first
sixteenth of the examples all values are recorded. Values that are then worse than the best by more than 4.5 paired
standard errors, √Σ d² / N of the paired differences d, are not recorded on the next sixteenth, and so on at an eighth,
a quarter and a half: the whole grid cannot choose them. Every second value is measured on all these examples, the
values between on examples where their neighbours differ; with --every all values are measured.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from torch import Tensor
from zoos import Zoo

from tsv_exp.api import merge
from tsv_exp.config import Engine, conf_dir
from tsv_exp.evaluation.inputs import load_inputs
from tsv_exp.merging.engine import Merged
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.devices import mixed
from tsv_exp.storage.files import atomic
from tsv_exp.tasks.task import Split, Task

METHODS = ["tsv_m", "task_arithmetic", "ties", "iso_c", "iso_cts", "iso_reg", "consensus_ta", "dare_ties", "dc_merge"]
METHODS += ["tsv_m_no_orthogonalization", "wudi_closed", "actmat"]
TEXT_METHODS = ["tsv_m", "task_arithmetic", "ties", "iso_c", "iso_cts"]
TEXTS = 250  # validation examples of a task
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
            found = self.predict(individual, 1.0, [task], count, [np.arange(count)])[0]
            self.finetuned[task.name, count] = float((found == drawn.labels.numpy()).mean())
        return self.splits[task.name, count]

    @torch.inference_mode()
    def predict(
        self, merged: Merged, alpha: float, tasks: Sequence[Task], count: int, rows: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.uint8]]:
        """Predicted classes of some of each task's images by the model at α; all are encoded together."""
        evaluator, model = self.zoo.evaluator, self.zoo.model
        evaluator._load_vector(merged, tasks[0].name)
        evaluator._set_alpha(alpha)
        wanted = torch.cat(
            [self.split(task, count).inputs[torch.from_numpy(some)] for task, some in zip(tasks, rows, strict=True)]
        )
        found: list[NDArray[np.uint8]] = []
        with mixed(evaluator.dtype, evaluator.device):
            encoded = [encode(evaluator.encoder, model.prepare(part, evaluator.device)) for part in wanted.split(BATCH)]
            for task, features in zip(tasks, torch.cat(encoded).split([len(some) for some in rows]), strict=True):
                classes = model.predict(lambda features: features, features, task)
                found.append(classes.numpy().astype(np.uint8))
        return found


class Texts:
    """The validation examples of the text benchmark in a random order (the model sorts them by length)."""

    def __init__(self) -> None:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("config", overrides=["model=minilm", "tasks=14", "seed=0", "model.validation=null"])
            self.zoo = load_inputs(config)
        rng = np.random.default_rng(DRAWN)
        self.rows = {name: rng.permutation(TEXTS) for name in self.zoo.evaluator.tasks}
        self.finetuned = {(name, TEXTS): value for name, value in self.zoo.reference("validation").items()}

    def split(self, task: Task, count: int) -> Split:
        """All examples of a task."""
        return self.zoo.model.split(task, "validation").take(torch.from_numpy(self.rows[task.name]))

    def predict(
        self, merged: Merged, alpha: float, tasks: Sequence[Task], count: int, rows: Sequence[NDArray[np.int64]]
    ) -> list[NDArray[np.uint8]]:
        """Predicted classes of some of each task's examples by the model at α."""
        found = []
        for task, some in zip(tasks, rows, strict=True):
            if not len(some):
                continue
            order = np.argsort(self.rows[task.name][some])  # by length, so that batches need little padding
            asked = torch.from_numpy(self.rows[task.name][some[order]])
            classes = self.zoo.evaluator.predictions(merged, alpha, task.name, task.name, "validation", asked)
            found.append(classes.numpy()[np.argsort(order)].astype(np.uint8))
        return found


def record(
    source: Images | Texts, method: str, tasks: Sequence[Task], count: int, every: bool
) -> dict[str, NDArray[Any]]:
    """Predictions (values, tasks, count) with labels (tasks, count); MISSING where a value was surely not the best."""
    merged = merge(
        source.zoo.base,
        {task.name: source.zoo.finetuned[task.name] for task in tasks},
        method,
        engine=Engine().of(source.zoo.model.exclude),
    )
    scaling = Method.load(method).alpha
    alphas = [scaling.stop * i / scaling.steps for i in range(1, scaling.steps + 1)]
    labels = np.stack([source.split(task, count).labels.numpy() for task in tasks])
    finetuned = np.array([source.finetuned[task.name, count] for task in tasks])
    predictions = np.full((len(alphas), *labels.shape), MISSING, np.uint8)
    live, start = list(range(len(alphas))), 0
    for stage in STAGES:
        rows = slice(start, round(stage * count))
        part = predictions[:, :, rows]
        for position, value in [*enumerate(live)][::2] + [*enumerate(live)][1::2]:
            below, above = (live[max(0, position - 1)], live[min(len(live) - 1, position + 1)])
            between = position % 2 == 1 and above - below == 2 and not every
            alike = part[below] == part[above] if between else np.zeros_like(part[0], bool)
            wanted = [start + np.flatnonzero(~one) for one in alike]
            part[value] = part[below]
            if not alike.all():
                part[value][~alike] = np.concatenate(source.predict(merged, alphas[value], tasks, count, wanted))
        start = rows.stop
        correct = (predictions[live, :, :start] == labels[:, :start]) / finetuned[:, None]
        means = correct.mean((1, 2))
        lead = correct[means.argmax()] - correct
        errors = np.sqrt(np.square(lead).sum((1, 2))) / lead[0].size
        live = [value for value, gap, error in zip(live, lead.mean((1, 2)), errors, strict=True) if gap <= 4.5 * error]
    return {"alphas": np.array(alphas), "predictions": predictions, "labels": labels, "finetuned": finetuned}


def plan() -> Iterator[tuple[str, Images, str, list[Task]]]:
    """Name, images, method and tasks of every grid of the embedded benchmark."""
    images = [Images(Zoo(None, *seeds)) for seeds in SEEDS]
    sets = [task_sets(one.zoo.tasks, index) for index, one in enumerate(images)]
    for name in sets[0]:
        for method in METHODS:
            for index, one in enumerate(images):
                yield f"{method}-{name}-zoo{index}", one, method, sets[index][name]


def text_plan() -> Iterator[tuple[str, Texts, str, list[Task]]]:
    """Likewise of the text benchmark: sets of 8 of its first 14 tasks."""
    texts, rng = Texts(), random.Random(0)
    tasks = list(texts.zoo.evaluator.tasks.values())
    sets = {"first8": tasks[:8], "last8": tasks[6:], "random0": rng.sample(tasks, 8)}
    for name, chosen in sets.items():
        for method in TEXT_METHODS:
            yield f"{method}-{name}-text", texts, method, chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=IMAGES, help="of a grid")
    parser.add_argument("--text", action="store_true", help="texts in place of images")
    parser.add_argument("--every", action="store_true", help="measure all values")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, source, method, tasks in text_plan() if args.text else plan():
        path = args.folder / f"{name}.npz"
        if not path.exists():
            found = record(source, method, tasks, TEXTS if args.text else args.images // len(tasks), args.every)
            with atomic(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **found)
            print(name, f"{(found['predictions'] != MISSING).mean() * len(found['alphas']):.1f} passes", flush=True)


if __name__ == "__main__":
    main()
