"""Base model -> fine-tuned encoder: the one training loop, for any encoder with a frozen head."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.functional import normalize as unit

from tsv_exp.errors import UserError
from tsv_exp.precision import mixed, resolve
from tsv_exp.tasks import Split


@dataclass(frozen=True)
class Recipe:
    """AdamW with a linear warm-up and a cosine decay to zero.

    `warmup` is a fraction of the steps, `clip` the largest gradient norm; parameters that match no pattern of
    `trainable` stay as they are.
    """

    lr: float
    steps: int
    batch_size: int = 128
    weight_decay: float = 0.0
    warmup: float = 0.1
    clip: float = 1.0
    trainable: Sequence[str] = ("*",)
    precision: str = "auto"

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        ramp = min(1.0, (step + 1) / (self.warmup * self.steps)) if self.warmup else 1.0
        return self.lr * ramp * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def _shuffled(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of indices: every epoch a new order, without an incomplete batch."""
    size = min(batch_size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def finetune(
    encoder: nn.Module,
    head: Tensor,
    normalize: Callable[[Tensor], Tensor],
    split: Split,
    recipe: Recipe,
    seed: int,
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Train `encoder` in place on its device; the same arguments give the same weights.

    Args:
        encoder: float images (B, 3, H, W) -> features (B, d).
        head: class weights (C, d): logits = unit features @ headᵀ; stays as it is.
        normalize: uint8 images to the encoder's input.
        split: the training images.
        recipe: the optimizer's settings.
        seed: orders the batches.
        advance: called after every step.

    Raises:
        UserError: no parameter matches `recipe.trainable`, or the loss is no longer finite.
    """
    named = list(encoder.named_parameters())
    for name, parameter in named:
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in recipe.trainable))
    parameters = [parameter for _, parameter in named if parameter.requires_grad]
    if not parameters:
        raise UserError(
            f"finetune.trainable={list(recipe.trainable)}: no parameter has such a name, for example {named[0][0]}"
        )
    device = parameters[0].device
    dtype = resolve(recipe.precision, device)
    head = head.to(device)
    torch.manual_seed(seed)
    batches = _shuffled(len(split), recipe.batch_size, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    encoder.train()
    for step in range(recipe.steps):
        index = next(batches)
        images, labels = split.images[index].to(device), split.labels[index].to(device)
        with mixed(dtype, device):
            features = encoder(normalize(images))
        loss = cross_entropy(unit(features.float(), dim=-1) @ head.T, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        optimizer.step()
        optimizer.zero_grad()
        advance()
    encoder.eval().requires_grad_(False)
    if not loss.isfinite():
        raise UserError(
            f"fine-tuning diverged: the loss is {loss.item()} after {recipe.steps} steps; lower finetune.lr"
        )
