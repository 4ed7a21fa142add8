"""Fine-tuned checkpoints trained locally: once, on the CPU, then cached in the user's cache folder."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Event

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tsv_exp.finetuning.training import finetune
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.console import bar
from tsv_exp.runtime.parallel.threads import map_in_threads
from tsv_exp.storage.weight_cache import Weights, cached_weights
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
    stop, recipe = Event(), model.finetune

    def train(task: Task, advance: Callable[[], object], state: Path) -> Weights:
        def advance_or_stop() -> None:
            if stop.is_set():
                raise _StoppedError
            advance()

        encoder, split = model.trainee(task), model.split(task, "train")
        loss = partial(model.loss, task=task)
        finetune(
            encoder, loss, model.prepare, split, recipe, seed, model.identity(task), advance_or_stop, state, SAVE_EVERY
        )
        state.unlink(missing_ok=True)
        return encoder.state_dict()

    with bar("fine-tuned checkpoints", len(tasks) * recipe.steps) as (progress, stage):
        advance = partial(progress.advance, stage)

        def load_or_train(task: Task) -> Mapping[str, Tensor]:
            wanted = key(task)
            name = f"{task.name}-{wanted[:20]}"
            path, state = folder / f"{name}.safetensors", folder / f"{name}.training"
            return cached_weights(path, wanted, lambda: train(task, advance, state))

        for task in tasks:
            model.split(task, "train")  # sequential: models cache their examples
        names = [task.name for task in tasks]
        with sdpa_kernel([SDPBackend.MATH]):  # a process-wide setting
            return dict(zip(names, map_in_threads(load_or_train, tasks, lambda _: 0, cancel=stop.set), strict=True))


def without_dropout(module: nn.Module) -> nn.Module:
    """Set the dropout probability of every layer to 0, in place, and return the module."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module
