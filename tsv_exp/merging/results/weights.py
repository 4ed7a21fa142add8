"""The weights of a merged model: θ_pre + α · τ."""

import math

import torch
from torch import Tensor

from tsv_exp.errors import UserError

_VARIANCE = "running_var"  # of batch normalization, which takes its square root


def check_alpha(alpha: float) -> None:
    """Raise a UserError if α is no number, or if float32 cannot represent it."""
    try:
        fits = abs(float(alpha + 0)) <= torch.finfo(torch.float32).max  # + 0: float() takes texts too
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"alpha={alpha!r}: it must be a finite number") from error
    if not fits:
        size = "a finite number" if not math.isfinite(alpha) else "at most 3.4e38 in size"
        raise UserError(f"alpha={alpha}: it must be {size}")


def merged_weight(name: str, weight: Tensor, tau: Tensor, alpha: float) -> tuple[Tensor, int]:
    """θ_pre + α · τ of one parameter in the dtype of τ, and the number of entries that stay as in the base.

    A running variance that α > 1 would take below zero stays the base's at that entry: its root would be NaN.
    """
    start = weight.detach().to(tau)
    result = torch.add(start, tau, alpha=alpha)
    if not name.endswith(_VARIANCE):
        return result, 0
    negative = result < 0
    return torch.where(negative, start, result), int(negative.sum())


def variance_warning(count: int) -> str:
    """The warning about running variances that stay as in the base."""
    return f"{count} running variances would be below 0 and stay as in the base; a smaller alpha changes them"
