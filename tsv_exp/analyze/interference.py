"""Singular Task Interference (arXiv 2412.00081, section 3.3, equation 6)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tsv_exp.config import Engine
from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.decompositions.build import build_algebra
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.layers import LowRank
from tsv_exp.merging.layer import Layer, Weights
from tsv_exp.merging.layer_map import map_layers
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.singular_vectors import concatenate_factors, tsv_c


def interference(
    base: Weights, finetuned: Mapping[str, Weights], rank_fraction: float | None = None, *, engine: Engine | None = None
) -> dict[str, float]:
    """The interference of every matrix layer, name -> STI.

    Args:
        base: the pre-trained weights.
        finetuned: the fine-tuned weights by task.
        rank_fraction: components kept per task as a share of min(m, n); None is floor(min(m, n) / T).
        engine: settings of decompositions, and of the 2-D layers that are not matrices.
    """
    engine = engine or Engine()
    stream = TaskVectors.of(base, finetuned, engine).with_progress("measuring interference")
    computed = build_algebra(engine, stream.compute_device)

    def measured(layer: Layer) -> tuple[str, float]:
        deltas, known = layer.to_decompose(computed)  # adapters by their factors
        return layer.name, layer_interference(deltas, rank_fraction, known)

    return dict(map_layers(measured, stream, computed, [name for name in stream.names if stream.is_matrix(name)]))


def layer_interference(deltas: Tensor, rank_fraction: float | None = None, algebra: Algebra = ExactAlgebra()) -> float:  # noqa: B008
    """STI of one layer's deltas (T, m, n)."""
    return singular_interference(concatenate_factors(tsv_c(deltas, rank_fraction, algebra=algebra)))


def singular_interference(factors: LowRank) -> float:
    """STI of the concatenated factors of all tasks: ‖(UᵀU − I) Σ (VᵀV − I)‖₁, entrywise."""
    u, s, vh = factors
    identity = torch.eye(len(s), dtype=s.dtype, device=s.device)
    return float((((u.mT @ u - identity) * s) @ (vh @ vh.mT - identity)).abs().sum())
