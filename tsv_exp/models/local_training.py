"""Fine-tuned checkpoints trained locally: once, on the CPU, then cached in the user's cache folder."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Event

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tsv_exp.finetuning.training import finetune
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.console import bar
from tsv_exp.runtime.parallel.threads import map_in_threads
from tsv_exp.storage.weight_cache import Weights, cached_weights, read_verified
from tsv_exp.tasks.task import Task

SAVE_EVERY = 100  # steps between two saved states, from which an interrupted training resumes


class _StoppedError(Exception):
    """Another training failed, or the user interrupted."""


def train_missing(
    model: Model, tasks: Sequence[Task], seed: int, folder: Path, key: Callable[[Task], str]
) -> dict[str, Mapping[str, Tensor]]:
    """The fine-tuned weights by task, trained where the cache lacks them.

    Tasks are trained in parallel, each on one CPU thread, so that the weights do not depend on the number of cores.
    The network must not use dropout: all threads share one random number generator.

    Args:
        model: the encoder, loss, examples and recipe.
        tasks: the tasks to train.
        seed: seed of the order of the examples.
        folder: the folder of the cached files.
        key: task -> digest of everything that its weights depend on.
    """
    keys = {task.name: key(task) for task in tasks}
    files = {name: folder / f"{name}-{wanted[:20]}.safetensors" for name, wanted in keys.items()}
    found = {name: read_verified(files[name], wanted) for name, wanted in keys.items()}
    missing = [task for task in tasks if found[task.name] is None]
    splits = {task.name: model.split(task, "train") for task in missing}  # sequential: models cache their examples
    stop, recipe = Event(), model.finetune

    def advance_or_stop() -> None:
        if stop.is_set():
            raise _StoppedError
        progress.advance(stage)

    def train(task: Task) -> Weights:
        torch.set_flush_denormal(True)  # of this thread: denormal numbers are slow
        encoder, loss = model.trainee(task), partial(model.loss, task=task)
        state, identity = files[task.name].with_suffix(".training"), model.identity(task)
        split, prepare = splits[task.name], model.prepare
        finetune(encoder, loss, prepare, split, recipe, seed, identity, advance_or_stop, state, SAVE_EVERY)
        state.unlink(missing_ok=True)
        return encoder.state_dict()

    def trained(task: Task) -> Mapping[str, Tensor]:
        return cached_weights(files[task.name], keys[task.name], lambda: train(task))

    if missing:
        with (
            bar("fine-tuned checkpoints", len(missing) * recipe.steps) as (progress, stage),
            sdpa_kernel([SDPBackend.MATH]),  # a process-wide setting
        ):
            weights = map_in_threads(trained, missing, lambda _: 0, cancel=stop.set)
            found |= dict(zip([task.name for task in missing], weights, strict=True))
    return {name: weights for name, weights in found.items() if weights is not None}


def without_dropout(module: nn.Module) -> nn.Module:
    """Set the dropout probability of every layer to 0, in place, and return the module."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module
