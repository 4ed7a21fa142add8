"""Inputs that the runs of a sweep share, loaded once: weights, data, accuracies of the fine-tuned models."""

import json
from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tsv_exp.config import Evaluate
from tsv_exp.evaluation.evaluator import Evaluator, weights_digest
from tsv_exp.evaluation.reference import finetuned_accuracies
from tsv_exp.merging.layer import Weights
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.devices import device_of
from tsv_exp.storage.files import cache_dir
from tsv_exp.tasks.definitions import selected
from tsv_exp.tasks.task import SplitName


class RunInputs(NamedTuple):
    """A model's weights by task, their digests, the evaluator, and reference accuracies: split -> task -> fraction.

    `reference` measures lazily: without a choice on validation, validation data are not even downloaded.
    """

    model: Model
    base: Weights
    finetuned: Mapping[str, Weights]
    digests: Mapping[str, str]
    evaluator: Evaluator
    reference: Callable[[SplitName], dict[str, float]]


def load_inputs(cfg: DictConfig) -> RunInputs:
    """Everything that does not depend on the method; cached for the next run with the same model and tasks."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    config = {name: plain[name] for name in ("model", "task", "device", "evaluate")}
    return _load(json.dumps(config | {"tasks": selected(plain)}), cache_dir())


@lru_cache(maxsize=1)  # only one entry: it fills the memory
def _load(config: str, place: Path) -> RunInputs:
    cfg = json.loads(config)
    model = model_of(cfg)
    tasks = [model.task(name, definition) for name, definition in cfg["tasks"]]
    device = device_of(cfg["device"])
    base, finetuned = model.base(), model.finetuned(tasks)
    digests = {"base": weights_digest(base)} | {name: weights_digest(finetuned[name]) for name in finetuned}
    evaluator = Evaluator(model, tasks, device, **vars(Evaluate(**cfg["evaluate"])))
    reference = cache(partial(finetuned_accuracies, evaluator, base, finetuned))
    return RunInputs(model, base, finetuned, digests, evaluator, reference)


def model_of(cfg: Mapping[str, Any]) -> Model:
    """The model that a configuration (plain containers) names; nothing is loaded yet."""
    return _model(json.dumps(cfg["model"]), json.dumps(cfg["task"]))


@lru_cache(maxsize=1)
def _model(config: str, settings: str) -> Model:
    """Cached: runs on different tasks with the same task settings share a model's data and heads."""
    model: Model = instantiate(json.loads(config))
    return model
