"""Low-rank adaptation (LoRA, arXiv 2106.09685): every chosen matrix is W = W_pre + s · B A with frozen W_pre.

The factors are trained in place of the matrices; afterwards W takes the place of both, so that nothing downstream
knows how a model was fine-tuned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tsv_exp.errors import UserError


@dataclass(frozen=True)
class Lora:
    """The settings of low-rank adaptation.

    `rank` is r, the number of rows of A; s = `alpha` / r, and 1 if `alpha` is None. Adapted are the trainable 2-D
    parameters that match a pattern of `targets` and are no embedding tables; everything else is frozen. The learning
    rate is `lr_factor` times that of the recipe.
    """

    rank: int = 16
    alpha: float | None = None
    targets: Sequence[str] = ("*weight", "*proj")
    lr_factor: float = 10.0

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("rank", self.rank >= 1, "a positive number"),
            ("alpha", self.alpha is None or 0 < self.alpha < math.inf, "a positive number, or null for the rank"),
            ("targets", len(self.targets) > 0, "at least one name pattern"),
            ("lr_factor", 0 < self.lr_factor < math.inf, "a positive number"),
        ):
            if not valid:
                raise UserError(f"finetune.lora.{name}={getattr(self, name)}: give {wanted}")

    @property
    def scale(self) -> float:
        """s, the factor of B A."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class _Product(nn.Module):
    """W_pre (m, n) -> W_pre + s · B A, with B (m, r) = 0 and A (r, n) uniform in ±1/√n at the start, as in PEFT."""

    def __init__(self, weight: Tensor, lora: Lora, generator: torch.Generator) -> None:
        super().__init__()
        m, n = weight.shape
        a = torch.empty(lora.rank, n).uniform_(-1, 1, generator=generator) / math.sqrt(n)
        self.a = nn.Parameter(a.to(weight))
        self.b = nn.Parameter(weight.new_zeros(m, lora.rank))
        self.scale = lora.scale

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.b @ self.a)


def targets(encoder: nn.Module, trainable: Sequence[str], lora: Lora) -> list[str]:
    """Names of the matrices that get factors: 2-D, matching a pattern of both lists, no embedding tables.

    Raises:
        UserError: there is none.
    """

    def chosen(name: str, parameter: nn.Parameter) -> bool:
        looked_up = isinstance(encoder.get_submodule(name.rpartition(".")[0]), nn.Embedding)
        both = all(any(fnmatchcase(name, pattern) for pattern in patterns) for patterns in (trainable, lora.targets))
        return parameter.dim() == 2 and not looked_up and both

    if found := [name for name, parameter in encoder.named_parameters() if chosen(name, parameter)]:
        return found
    first = next(name for name, _ in encoder.named_parameters())
    raise UserError(
        f"finetune.lora.targets={list(lora.targets)}: no matrix has such a name and matches "
        f"finetune.trainable={list(trainable)}; the parameters have names like {first}"
    )


def attach(encoder: nn.Module, trainable: Sequence[str], lora: Lora, seed: int) -> dict[str, nn.Parameter]:
    """Freeze the encoder, give its targets factors, and return these by name.

    Args:
        encoder: changed in place.
        trainable: name patterns of the parameters among which the targets are.
        lora: rank, scale and patterns of the targets.
        seed: seed of the first factors A.

    Raises:
        UserError: there is no target.
    """
    found = targets(encoder, trainable, lora)
    encoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in found:
        owner, _, leaf = name.rpartition(".")
        product = _Product(encoder.get_parameter(name).detach(), lora, generator)
        parametrize.register_parametrization(encoder.get_submodule(owner), leaf, product)
    return {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def absorb(encoder: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Replace W_pre, A and B by W; returns B (m, r) and A (r, n) by the name of their matrix, if any.

    The state dict is a full one again.
    """
    factors = {}
    for place, module in list(encoder.named_modules()):
        if parametrize.is_parametrized(module):
            for leaf in list(module.parametrizations):
                product: Any = module.parametrizations[leaf][0]
                factors[f"{place}.{leaf}".lstrip(".")] = (product.b.detach(), product.a.detach())
                parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
    return factors
