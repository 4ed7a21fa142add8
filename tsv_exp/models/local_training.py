"""Fine-tuned checkpoints that a model trains itself: once, on the CPU, cached in the user's cache folder."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Event

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tsv_exp.finetuning.training import finetune
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.console import bar
from tsv_exp.runtime.threads import map_in_threads
from tsv_exp.storage.weight_cache import Weights, cached_weights
from tsv_exp.tasks.task import Task

SAVE_EVERY = 100  # steps; an interrupted training goes on from there


class _StoppedError(Exception):
    """Another training failed, or the user interrupted."""


def train_missing(
    model: Model, tasks: Sequence[Task], seed: int, folder: Path, key: Callable[[Task], str]
) -> dict[str, Mapping[str, Tensor]]:
    """The fine-tuned weights by task, trained where the cache lacks them.

    Several tasks are trained at a time, each on one CPU thread, so that the weights do not depend on the number of
    cores. The network must be free of dropout: all trainings share one random number generator.

    Args:
        model: gives encoder, loss, examples and recipe.
        tasks: which ones.
        seed: orders the batches.
        folder: of the cached files.
        key: digest of everything that a task's weights depend on.
    """
    stop, recipe = Event(), model.finetune

    def trained(task: Task, advance: Callable[[], object], state: Path) -> Weights:
        def checked() -> None:
            if stop.is_set():
                raise _StoppedError
            advance()

        encoder, split = model.trainee(task), model.split(task, "train")
        loss = partial(model.loss, task=task)
        finetune(encoder, loss, model.prepare, split, recipe, seed, model.identity(task), checked, state, SAVE_EVERY)
        state.unlink(missing_ok=True)
        return encoder.state_dict()

    with bar("fine-tuned checkpoints", len(tasks) * recipe.steps) as (progress, stage):
        advance = partial(progress.advance, stage)

        def made(task: Task) -> Mapping[str, Tensor]:
            name = f"{task.name}-{key(task)[:20]}"
            path, state = folder / f"{name}.safetensors", folder / f"{name}.training"
            return cached_weights(path, key(task), lambda: trained(task, advance, state))

        for task in tasks:
            model.split(task, "train")  # one after the other: models cache their examples
        names = [task.name for task in tasks]
        with sdpa_kernel([SDPBackend.MATH]):  # a setting of the process, which its threads share
            return dict(zip(names, map_in_threads(made, tasks, lambda _: 0, cancel=stop.set), strict=True))


def without_dropout(module: nn.Module) -> nn.Module:
    """The module, whose dropout layers drop nothing; changed in place."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module
