"""A few values of each tensor of a base: they tell the base from its fine-tuned models, whose shapes are the same."""

from collections.abc import Sequence

import torch
from torch import Tensor

VALUES = 16  # of one tensor
_ROUNDED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # dtypes in which a model may be loaded


def sample(weight: Tensor) -> list[float]:
    """Values at equal distances in the flattened tensor, of which nothing else is read."""
    count = weight.numel()
    places = torch.arange(min(VALUES, count), device=weight.device) * count // max(1, min(VALUES, count))
    found: list[float] = weight.detach()[torch.unravel_index(places, weight.shape)].cpu().double().reshape(-1).tolist()
    return found


def sampled_from(weight: Tensor, values: Sequence[float]) -> bool:
    """Whether a tensor has these values, as they are or rounded once or twice to the dtypes of models."""
    own = torch.tensor(sample(weight), dtype=torch.float64)
    wanted = torch.tensor(values, dtype=torch.float64)
    return any(torch.equal(own, wanted.to(dtype).to(weight.dtype).double()) for dtype in _ROUNDED)
