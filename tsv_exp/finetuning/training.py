"""The training loop: fine-tunes an encoder, for any network and loss."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from tsv_exp.config import check_precision
from tsv_exp.errors import UserError
from tsv_exp.finetuning.lora import Lora, absorb, attach
from tsv_exp.finetuning.state import TrainingState
from tsv_exp.runtime.devices import mixed, resolve
from tsv_exp.runtime.parallel.threads import prefetch
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import Split


@dataclass(frozen=True)
class Recipe:
    """AdamW with a linear warm-up and a cosine decay to zero.

    `warmup` is a fraction of the steps, `clip` the largest gradient norm; parameters that match no pattern of
    `trainable` are frozen. With `lora`, low-rank factors are trained in place of the trainable matrices.
    """

    lr: float
    steps: int
    batch_size: int = 128
    weight_decay: float = 0.0
    warmup: float = 0.1
    clip: float = 1.0
    trainable: Sequence[str] = ("*",)
    precision: str = "auto"
    lora: Lora | None = None

    def __post_init__(self) -> None:
        check_precision(self.precision)
        for name, valid, wanted in (
            ("lr", 0 < self.lr < math.inf, "a positive number"),
            ("steps", self.steps >= 0, "a number of steps"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "a number of at least 0"),
            ("warmup", 0 <= self.warmup <= 1, "a fraction of the steps, from 0 to 1"),
            ("clip", self.clip > 0, "a positive number"),
        ):
            if not valid:
                raise UserError(f"finetune.{name}={getattr(self, name)}: give {wanted}")

    def settings(self) -> dict[str, Any]:
        """Plain values, for digests; without low-rank factors there is no `lora` among them."""
        plain = asdict(self) | {"trainable": list(self.trainable)}
        if self.lora is None:
            del plain["lora"]
        else:
            plain["lora"] |= {"targets": list(self.lora.targets)}
        return plain

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        ramp = min(1.0, (step + 1) / (self.warmup * self.steps)) if self.warmup else 1.0
        return self.lr * ramp * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class PublishedRecipe(Recipe):
    """The recipe of CLIP's benchmark checkpoints: a warm-up of a fixed number of steps, then a cosine decay.

    In a short run the warm-up is at most half of the steps.
    """

    warmup_steps: int = 500

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        ramp = min(self.warmup_steps, self.steps // 2)
        if step < ramp:
            return self.lr * (step + 1) / ramp
        return Recipe(self.lr, self.steps - ramp, warmup=0.0).rate(step - ramp)


def _shuffled(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of indices, reshuffled every epoch, without incomplete batches."""
    size = min(batch_size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def finetune(
    encoder: nn.Module,
    loss: Callable[[nn.Module, Any, Tensor], Tensor],
    prepare: Callable[[Any, torch.device], Any],
    split: Split,
    recipe: Recipe,
    seed: int,
    identity: str = "",
    advance: Callable[[], object] = lambda: None,
    state: Path | None = None,
    every: int = 200,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Train `encoder` in place on its device; the same arguments give the same weights.

    If torch.distributed is initialized, every process trains on its part of each batch.

    Args:
        encoder: the network to train.
        loss: (the encoder, perhaps wrapped for DDP; a prepared batch; its labels (B,)) -> the mean loss.
        prepare: (the inputs of some examples, a device) -> a batch on that device.
        split: the training examples.
        recipe: the optimizer's settings.
        seed: seed of the order of the examples.
        identity: digest of data and head: an interrupted run resumes only with the same one.
        advance: called after every step, including those of the interrupted run.
        state: file from which an interrupted run resumes, with the same result.
        every: number of steps between two saves of the state.

    Returns:
        With `recipe.lora`: B (m, r) and A (r, n) by the name of their matrix, which has become W_pre + s · B A.

    Raises:
        UserError: no parameter matches `recipe.trainable`, the batch cannot be divided, the file belongs to
            a different run, or the loss is not finite.
    """
    rank, world = _rank_and_world()
    if recipe.batch_size % world:
        raise UserError(f"finetune.batch_size={recipe.batch_size}: it cannot be divided evenly among {world} processes")
    if recipe.lora is None:
        parameters, factor = _trainable(encoder, recipe.trainable), 1.0
    else:  # each task's factors are drawn independently
        own = int(digest(seed, identity)[:15], 16)
        parameters, factor = attach(encoder, recipe.trainable, recipe.lora, own), recipe.lora.lr_factor
    device = next(iter(parameters.values())).device
    dtype = resolve(recipe.precision, device)
    torch.manual_seed(seed)
    batches = _shuffled(len(split), recipe.batch_size, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(parameters.values(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    saved = TrainingState(
        state, digest(recipe.settings() | {"trainable": list(parameters)}, seed, len(split), identity)
    )
    start = saved.restore(parameters, optimizer, scaler)
    model = _shared(encoder, device) if world > 1 else encoder
    encoder.train()
    for _ in zip(range(start), batches, strict=False):
        advance()
    loaded = prefetch((batch, split.inputs[batch[rank::world]]) for batch in islice(batches, recipe.steps - start))
    for step, (batch, inputs) in enumerate(loaded, start):
        labels = split.labels[batch[rank::world]].to(device)
        # The mean over this process's examples, weighted so that DDP's mean over processes is the mean over the batch.
        weight = len(labels) * world / len(batch)
        with mixed(dtype, device):
            value = loss(model, prepare(inputs, device), labels) * weight
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters.values(), recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = factor * recipe.rate(step)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        last = step + 1 == recipe.steps
        if last or (step + 1) % every == 0:
            _check(value, step + 1)
            if rank == 0 and not last:
                saved.store(step + 1, parameters, optimizer, scaler)
        advance()
    factors = absorb(encoder)
    encoder.eval().requires_grad_(False)
    return factors


def _rank_and_world() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _shared(encoder: nn.Module, device: torch.device) -> nn.Module:
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(encoder, device_ids=[device] if device.type == "cuda" else None)


def _trainable(encoder: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    named = list(encoder.named_parameters())
    for name, parameter in named:
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))
    found = {name: parameter for name, parameter in named if parameter.requires_grad}
    if not found:
        raise UserError(f"finetune.trainable={list(patterns)}: no parameter has such a name, for example {named[0][0]}")
    return found


def _check(loss: Tensor, step: int) -> None:
    if not loss.isfinite():
        raise UserError(f"fine-tuning diverged: the loss is {loss.item()} after {step} steps; lower finetune.lr")
