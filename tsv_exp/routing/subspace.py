"""The residual of an input outside of each task's subspace: the router of MASS (arXiv 2504.05342).

Task i is represented at one layer by the top k right singular vectors V_i (n, k) of its task matrix.
"""

import torch
from torch import Tensor


def residuals(inputs: Tensor, vectors: Tensor) -> Tensor:
    """‖z − V_i V_iᵀ z‖ (B, T), in float32.

    Args:
        inputs: z (B, n), any floating-point dtype.
        vectors: V_iᵀ (T, k, n) with orthonormal rows; zero rows are absent.
    """
    z = inputs.float()
    tasks, rank, _ = vectors.shape
    inside = (z @ vectors.flatten(0, 1).mT).view(-1, tasks, rank)
    return (z.square().sum(1, keepdim=True) - inside.square().sum(2)).clamp_min(0).sqrt()


def standardized(scores: Tensor) -> Tensor:
    """Scores (B, T) minus their mean over tasks, over their standard deviation over tasks; 0 where all are equal."""
    centred = scores - scores.mean(1, keepdim=True)
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    return centred / deviation.clamp_min(torch.finfo(centred.dtype).tiny)
