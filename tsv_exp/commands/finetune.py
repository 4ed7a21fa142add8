"""tsv-finetune: fine-tune a model's image encoder on one of its tasks, in one process or in several by torchrun."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import distributed

from tsv_exp.commands.guard import error_guard, run_command
from tsv_exp.config import conf_dir
from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import Recipe, finetune
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.console import bar, console
from tsv_exp.runtime.distributed import rank_device
from tsv_exp.storage.files import atomic
from tsv_exp.storage.tensor_files import save
from tsv_exp.tasks.task import Task, select

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published(Recipe):
    """The recipe of the benchmark's checkpoints: a warm-up of so many steps, then a cosine over the others."""

    warmup_steps: int = 500

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        return Recipe(self.lr, self.steps - self.warmup_steps, warmup=0.0).rate(step - self.warmup_steps)


def main() -> int:
    """The command: 0 when the checkpoint is written, else one line and 1."""
    return run_command("tsv-finetune", _app, _kept)


def _kept() -> str:
    return "the same command goes on from the last saved step"


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="finetune")
def _app(cfg: DictConfig) -> None:
    with error_guard("tsv-finetune", _kept), _processes() as (rank, in_turn):
        path = run(cfg, rank, in_turn)
    if rank == 0:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def run(cfg: DictConfig, rank: int, in_turn: Callable[[], object]) -> Path:
    """Train what the configuration names, going on where an earlier process was stopped.

    Args:
        cfg: conf/finetune.yaml.
        rank: of this process; the first one prepares data and head, and writes.
        in_turn: called after the first process's preparations, which the others wait for.

    Returns:
        The checkpoint: safetensors with the keys of the model's base.

    Raises:
        UserError: something in the configuration or the data is not as it must be, or memory runs out.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32  # by default convolutions use it unasked
    model: Model = instantiate(cfg.model)
    (task,) = select(model.catalogue(), [cfg.task])
    path = Path(cfg.output) / model.name / f"{task.name}.safetensors"
    if path.exists():
        log.info("%s is there already", path)
        return path
    if rank > 0:
        in_turn()
    head, split = model.head(task), model.split(task, "train")
    if rank == 0:
        in_turn()
    recipe = _recipe(cfg, task, len(split))
    device = rank_device(cfg.device)
    encoder = model.encoder().to(device)
    state = path.with_suffix(".training")
    with bar(f"fine-tuning on {task.name}", recipe.steps) as (progress, done):
        advance = lambda: progress.advance(done)  # noqa: E731
        try:
            finetune(encoder, head, model.normalize, split, recipe, cfg.seed, advance, state, cfg.save_every)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{device} has no room for its share of finetune.batch_size={recipe.batch_size} images; share them "
                "among more GPUs (torchrun --nproc-per-node N), or give fewer; the last saved step is kept"
            ) from error
    if rank == 0:
        with atomic(path) as temporary:
            save(temporary, encoder.state_dict())
        state.unlink(missing_ok=True)
    return path


def _recipe(cfg: DictConfig, task: Task, images: int) -> Recipe:
    epochs = cfg.epochs if cfg.epochs is not None else task.source.get("finetune_epochs")
    if epochs is None:
        raise UserError(f"epochs=null: nothing is published for {task.name}; give a number")
    steps = epochs * (images // min(cfg.finetune.batch_size, images))
    if steps < 1:
        raise UserError(f"epochs={epochs}: give a positive number")
    settings = OmegaConf.to_container(cfg.finetune, resolve=True)
    assert isinstance(settings, dict)
    return Published(steps=int(steps), **{str(key): value for key, value in settings.items()})


@contextmanager
def _processes() -> Iterator[tuple[int, Callable[[], object]]]:
    """This process's rank and a barrier: of torchrun, or alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield 0, lambda: None
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield distributed.get_rank(), distributed.barrier
    finally:
        distributed.destroy_process_group()
