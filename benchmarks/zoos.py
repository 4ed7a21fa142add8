"""Shared code of the resumable benchmarks: zoos of the embedded benchmark by seed, merged and scored."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import tsv_exp.commands.exp  # noqa: F401 - registers the configuration schema
from tsv_exp.api import merge
from tsv_exp.config import conf_dir
from tsv_exp.evaluation.alpha import Point, Search
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.evaluation.per_task import choose_per_task
from tsv_exp.evaluation.reference import finetuned_accuracies
from tsv_exp.merging.engine import Merged
from tsv_exp.merging.layer import Weights
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.devices import device_of
from tsv_exp.storage.files import cache_dir
from tsv_exp.tasks.task import SplitName


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command-line parser of such a benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bases", type=Path, help="folder of pre-trained bases SEED.safetensors (default: in the cache)"
    )
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, appended to")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    return parser


def recorded(results: Path) -> list[dict[str, Any]]:
    """Read the earlier measurements."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def record(results: Path, entry: Mapping[str, Any]) -> None:
    """Append a measurement."""
    with results.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def base_of(seed: int, folder: Path | None = None) -> Path | None:
    """The file of the base pre-trained with a seed, created if missing; None for 0, the packaged base."""
    if seed == 0:
        return None
    path = (folder or cache_dir() / "bases") / f"{seed}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "tsv_exp.models.tiny.pretrain", str(path), "--seed", str(seed)], check=True
        )
    return path


class ConfiguredZoo:
    """The first fine-tuned models of a configuration (overrides of tsv-exp); merges of the first T of them, scored."""

    def __init__(self, overrides: Sequence[str], tasks: int):
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("config", overrides=list(overrides))
        self.model = instantiate(config.model)
        self.tasks = list(self.model.catalogue().values())[:tasks]
        self.base: Weights = self.model.base()
        self.finetuned: dict[str, Weights] = self.model.finetuned(self.tasks)
        self.evaluator = Evaluator(self.model, self.tasks, device_of("auto"))

    @cached_property
    def validation(self) -> Mapping[str, float]:
        """The fine-tuned models' accuracies on validation."""
        return finetuned_accuracies(self.evaluator, self.base, self.finetuned, "validation")

    def models(self, tasks: int) -> dict[str, Weights]:
        """The first of the fine-tuned models."""
        return {task.name: self.finetuned[task.name] for task in self.tasks[:tasks]}

    def merge(self, method: Method, models: Mapping[str, Weights]) -> Merged:
        """The merged model; per-task parameters are chosen on validation images."""
        few = Evaluator(self.model, [task for task in self.tasks if task.name in models], self.evaluator.device)
        chosen = choose_per_task(method, few, lambda tuner: merge(self.base, models, tuner), Search(1.0, 10)).method
        return merge(self.base, models, chosen)

    def accuracies(self, merged: Merged, alpha: float, split: SplitName) -> dict[str, float]:
        """Task -> accuracy (a fraction), of the merged tasks."""
        return {task: self.evaluator.accuracy(merged, alpha, task, split) for task in merged.tasks}

    def point(self, merged: Merged, alpha: float) -> Point:
        """The accuracies at α on validation."""
        finetuned = {task: self.validation[task] for task in merged.tasks}
        return Point.of(alpha, self.accuracies(merged, alpha, "validation"), finetuned)

    def choose(self, merged: Merged) -> Point:
        """The best point on validation of the method's own grid, by `alpha=search`."""
        scaling = Method.load(merged.method.name).alpha
        choice = Search(scaling.stop, scaling.steps).choose(lambda alpha: self.point(merged, alpha))
        return self.point(merged, choice.alpha)


class Zoo(ConfiguredZoo):
    """The 20 models of the embedded benchmark for one base, fine-tuning seed and data seed."""

    def __init__(self, base: Path | None, finetuning: int, data: int):
        super().__init__([f"seed={finetuning}", f"model.data.seed={data}", f"model.base={base or 'null'}"], tasks=20)
