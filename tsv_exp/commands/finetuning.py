"""The work of tsv-finetune: prepares a model and its data, trains, writes the checkpoint."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import distributed

from tsv_exp.arguments import check_nodes
from tsv_exp.checkpoints.adapters.writer import WEIGHTS, check_adaptable, write_adapter
from tsv_exp.data.tasks import local_place
from tsv_exp.errors import UserError
from tsv_exp.finetuning.lora import targets
from tsv_exp.finetuning.training import Recipe, finetune
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.console import bar
from tsv_exp.runtime.devices import device_of
from tsv_exp.runtime.parallel.distributed import rank_device, world_size
from tsv_exp.storage.files import atomic, check_writable, clear_partial_files
from tsv_exp.storage.tensor_files import save
from tsv_exp.tasks.definitions import Definition, chosen, options
from tsv_exp.tasks.task import Task

log = logging.getLogger(__name__)


def check(cfg: DictConfig, here: bool = True) -> None:
    """Check what can be known to be wrong before anything is loaded.

    Raises:
        UserError: something in the configuration is invalid.
    """
    if "WORLD_SIZE" in os.environ:  # torchrun: `run` finds the same, and one process says it
        return
    name, definition = _definition(cfg)
    check_nodes("model", OmegaConf.to_container(cfg.model, resolve=True))
    model: Model = instantiate(cfg.model)
    _recipe(cfg, model.finetune)
    if here:
        device_of(cfg.device)
    if definition["data"].get("path"):
        local_place(name, definition["data"])


def run_in_processes(cfg: DictConfig) -> Path | None:
    """As `run`, under torchrun with its other processes; the process that wrote the checkpoint returns it."""
    with _processes(cfg.device) as (rank, in_turn):
        path = run(cfg, rank, in_turn)
    return path if rank == 0 else None


def run(cfg: DictConfig, rank: int, in_turn: Callable[[], object]) -> Path | None:
    """Train the configured model on a task; resumes an interrupted run.

    Args:
        cfg: conf/finetune.yaml; HydraConfig contains the name of the task.
        rank: rank of this process; rank 0 prepares data and head, and writes the checkpoint.
        in_turn: barrier, called after the preparations of rank 0, for which the other ranks wait.

    Returns:
        The checkpoint: safetensors with the keys of the model's base, or of an adapter in PEFT's format; None if it
        was there before.

    Raises:
        UserError: the configuration or the data are invalid, or memory runs out.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32  # convolutions use it by default
    name, definition = _definition(cfg)
    check_nodes("model", OmegaConf.to_container(cfg.model, resolve=True))
    device = rank_device(cfg.device)
    model: Model = instantiate(cfg.model)
    recipe = _recipe(cfg, model.finetune)
    task = model.task(name, definition)
    folder = Path(cfg.output) / model.name
    path = folder / task.name / WEIGHTS if cfg.adapter else folder / f"{task.name}.safetensors"
    state = folder / f"{task.name}.training"
    if path.exists():
        log.info("%s already exists, so nothing was trained; delete it to train again", path)
        _clear(state)
        return None
    if rank > 0:
        in_turn()
    else:
        check_writable(folder)
    identity, split = model.identity(task), model.split(task, "train")
    if rank == 0:
        in_turn()
    recipe = _with_steps(cfg, recipe, task, len(split))
    encoder = model.trainee(task).to(device)
    if cfg.adapter and recipe.lora:
        check_adaptable(encoder, targets(encoder, recipe.trainable, recipe.lora))
    with bar(f"fine-tuning on {task.name}", recipe.steps) as (progress, done):
        advance = lambda: progress.advance(done)  # noqa: E731
        try:
            loss = partial(model.loss, task=task)
            factors = finetune(
                encoder, loss, model.prepare, split, recipe, cfg.seed, identity, advance, state, cfg.save_every
            )
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{device} is out of memory with its share of finetune.batch_size={recipe.batch_size} examples; use "
                "more GPUs (torchrun --nproc-per-node N) or a smaller batch; the last saved state remains"
            ) from error
    if rank == 0:
        if cfg.adapter and recipe.lora:
            write_adapter(path.parent, factors, recipe.lora.rank, recipe.lora.scale, cfg.model.get("pretrained"))
        else:
            with atomic(path) as temporary:
                save(temporary, encoder.state_dict())
        _clear(state)
    return path


def _definition(cfg: DictConfig) -> tuple[str, Definition]:
    """Name and definition of the task."""
    name = HydraConfig.get().runtime.choices["task"]
    if name is None:
        raise UserError(f"task is missing; give task=NAME, one of: {', '.join(options('task'))}")
    given: Any = OmegaConf.to_container(cfg.task, resolve=True)
    return chosen([name], {name: given})[0]


def _clear(state: Path) -> None:
    """Remove the state of a finished training run, and temporary files of killed processes."""
    state.unlink(missing_ok=True)
    clear_partial_files(state.parent, f"{state.stem}.*")


def _recipe(cfg: DictConfig, recipe: Recipe) -> Recipe:
    """The model's recipe with what was given in its place."""
    plain: Any = OmegaConf.to_container(cfg.finetune)
    lora, given = _present(plain.pop("lora")), _present(plain)
    known = [field.name for field in fields(recipe)]
    if unknown := sorted(given.keys() - known):
        raise UserError(f"finetune.{unknown[0]}: not in this model's recipe, which has: {', '.join(known)}")
    if lora and recipe.lora is None:
        raise UserError(f"finetune.lora.{min(lora)}: for low-rank factors only; give finetune=lora too")
    if cfg.adapter and recipe.lora is None:
        raise UserError("adapter=true: an adapter needs low-rank factors; give finetune=lora too")
    if given.get("steps", 1) < 1:
        raise UserError(f"finetune.steps={given['steps']}: give a positive number")
    if cfg.epochs is not None and not cfg.epochs > 0:
        raise UserError(f"epochs={cfg.epochs:g}: give a positive number")
    return replace(recipe, **given, lora=recipe.lora and replace(recipe.lora, **lora))


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _with_steps(cfg: DictConfig, recipe: Recipe, task: Task, examples: int) -> Recipe:
    """The recipe with the steps of the epochs, given or published for the task."""
    epochs = cfg.epochs if cfg.epochs is not None else task.source.get("finetune_epochs")
    if epochs is not None:
        recipe = replace(recipe, steps=int(epochs * (examples // min(recipe.batch_size, examples))))
    if recipe.steps < 1:
        raise UserError(f"epochs={epochs}: give a positive number")
    return recipe


@contextmanager
def _processes(wanted: str) -> Iterator[tuple[int, Callable[[], object]]]:
    """Rank of this process and a barrier, under torchrun or in a single process."""
    if world_size() < 2:
        yield 0, lambda: None
        return
    device = rank_device(wanted)
    if device.index is None or str(device) == wanted:
        distributed.init_process_group("gloo")  # NCCL refuses CPUs, and a GPU that all processes name
    else:
        distributed.init_process_group("nccl", device_id=device)
    try:
        yield distributed.get_rank(), distributed.barrier
    finally:
        distributed.destroy_process_group()
