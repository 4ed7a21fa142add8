"""The certified polar factor from eigenvectors of the Gram matrix: in float32 where that suffices, else in float64."""

import torch
from torch import Tensor

from tsv_exp.decompositions import exact as linalg
from tsv_exp.decompositions.krylov import random_block
from tsv_exp.decompositions.numerics import (
    ORTHOGONAL,
    Matrices,
    eigh,
    gram,
    magnitude,
    moderate,
    times,
    transposed_times,
    whole,
)
from tsv_exp.layers import LowRank

_WELL_CONDITIONED = 1e-2  # ratio of the eigenvalues of a Gram matrix above which float32 keeps its inverse root
_CORRECTABLE = 1e-4  # such a ratio, but for the smallest eighth, below which float32 loses the eigenvectors
_FIRST_ORDER = 0.03  # size of an error whose square is negligible


def gram_polar(x: Tensor) -> tuple[LowRank, Tensor]:
    """polar(x) = x (xᵀx)^(−1/2) of matrices (b, m, n), m ≥ n, without null directions, and which are certified (b,).

    The factors are (b, m, n), (b, n) and (b, n, n).
    """
    x = whole(scaled(x)[0])
    doubt = x.new_full((len(x),), torch.inf)
    values, vectors = eigh(gram(x))
    first, middle, last = values[:, 0], values[:, _small(x) - 1], values[:, -1]
    if bool((first > _WELL_CONDITIONED * last).all()):
        root = gram((vectors * values.pow(-0.25).unsqueeze(1)).mT)
        factors, doubt = LowRank(x, torch.ones_like(values), root), torch.zeros_like(doubt)
    elif bool((middle > _CORRECTABLE * last).all()):
        factors, vectors, doubt = _corrected_polar(x, vectors)
        if not bool((doubt < _FIRST_ORDER).all()):
            factors, vectors, doubt = _corrected_polar(x, _turned(x, vectors))
    if not bool((doubt < _FIRST_ORDER).all()):
        factors, vectors, doubt = _corrected_polar(x, eigh(gram(x.double()))[1].to(x))
    probes = random_block(x)
    kept = times(vectors, factors.s.unsqueeze(-1) * transposed_times(vectors, probes))
    image = transposed_times(factors.u, times(factors.u, times(factors.vh, probes)))
    error = torch.linalg.matrix_norm(transposed_times(factors.vh, image) - kept) / probes.norm()
    return factors, (error < ORTHOGONAL) & (doubt < _FIRST_ORDER)


def _corrected_polar(x: Tensor, vectors: Tensor) -> tuple[LowRank, Tensor, Tensor]:
    """polar(x) of (b, m, n) from approximate eigenvectors of xᵀx (the smallest first), to first order in their error.

    y = x · vectors has nearly orthogonal columns, whatever their sizes d: yᵀy = D (I + F) D is known to high relative
    accuracy, as in one-sided Jacobi. Perturbing the root of D (I + F) D gives polar(y) = y D⁻¹ (I − F ∘ W) with
    W_ij = d_i / (d_i + d_j). The smallest eigenvectors, where errors are largest, are first made exact.

    Returns:
        the factors, with zeros for null directions, the eigenvectors, and ‖F‖ (b,): the error is of its square.
    """
    y, vectors = times(x, vectors), vectors.clone()
    small = slice(0, _small(x))
    rotation = eigh(gram(y[..., small].double()))[1].to(x)
    y[..., small], vectors[..., small] = y[..., small] @ rotation, vectors[..., small] @ rotation
    sizes = y.norm(dim=-2)
    keep = linalg.independent(sizes, *x.shape[-2:]).to(y)
    y *= (keep / torch.where(keep > 0, sizes, 1)).unsqueeze(-2)
    off = gram(y)
    off.diagonal(dim1=-2, dim2=-1).sub_(keep)
    doubt = torch.linalg.matrix_norm(off)
    pairs = (sizes.unsqueeze(-1) + sizes.unsqueeze(-2)).clamp_(min=torch.finfo(y.dtype).tiny)
    weighted = off.mul_(sizes.unsqueeze(-1)).div_(pairs)
    return LowRank(y, keep, vectors.mT - times(weighted, vectors.mT)), vectors, doubt


def _turned(x: Tensor, vectors: Tensor) -> Tensor:
    """Approximate eigenvectors of xᵀx (the smallest first), the smallest eighth turned away from the others.

    To first order the images under x of both parts are then orthogonal, as those of eigenvectors are. In float32 the
    image of a small eigenvector is else mostly what its rounding shares with the large ones.
    """
    small, large = vectors.tensor_split((_small(x),), -1)
    image = times(x, large)
    turn = transposed_times(image, times(x, small)) / image.square().sum(-2).unsqueeze(-1)
    return torch.cat([small - times(large, turn), large + times(small, turn.mT)], -1)


def _small(x: Tensor) -> int:
    """How many eigenvectors of xᵀx count as the smallest: an eighth."""
    return x.shape[-1] // 8 + 1


def scaled(x: Matrices) -> tuple[Matrices, Tensor]:
    """Matrices (..., m, n), divided by their largest magnitude (..., 1, 1) where ‖xᵀx‖ may be out of range."""
    scale = magnitude(x)[..., None, None]
    if moderate(scale):
        return x, torch.ones_like(scale)
    return x / scale, scale
