"""The merging methods: pure functions on the deltas (T, *shape) of one layer over T tasks.

A function returns the merged task vector before α: a tensor (*shape) shared by all tasks, a tensor (T, *shape) or
low-rank factors with one entry per task, or a masked vector. conf/method/<name>.yaml names the function and
its parameters.
"""

import torch
from torch import Tensor

from tsv_exp.merging.layer import entrywise


def zero_shot(deltas: Tensor) -> Tensor:
    """The pre-trained model: 0."""
    return torch.zeros_like(deltas[0])


def individual(deltas: Tensor) -> Tensor:
    """The fine-tuned models themselves: τ_i for task i."""
    return deltas


@entrywise
def weight_average(deltas: Tensor) -> Tensor:
    """The mean of the models (arXiv 2203.05482): 1/T · Σ_i τ_i."""
    return deltas.mean(0)


@entrywise
def task_arithmetic(deltas: Tensor) -> Tensor:
    """Task arithmetic (arXiv 2212.04089): τ_mtl = Σ_i τ_i."""
    return deltas.sum(0)
