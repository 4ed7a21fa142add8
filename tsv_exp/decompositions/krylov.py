"""Top eigenvectors of Gram matrices from block Krylov spaces (Golub & Underwood 1977; Musco & Musco, arXiv 1504.05477).

All in float32 but for one correction; batched, and on any device.
"""

import math

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import Matrices, eigh, gram, qr, times, transposed_times

EPS = torch.finfo(torch.float32).eps
BLOCK = 16  # columns per step: small blocks reach higher powers of the Gram matrix at equal dimension

_CONVERGED = 3e-6  # root mean square angle (radians) to the true vectors for which one Rayleigh-Ritz step is enough
_GAIN = 7  # by which a block usually improves that angle
_CANCELLED = 0.1  # what a step leaves of its columns, below which rounding is not orthogonal to the basis
_EXHAUSTED = 1e-5  # the same as a share of the largest columns: there is little but rounding left
_TURN = 1e-2  # norm of a first-order correction of eigenvectors up to which it suffices


def top_vectors(g: Tensor, k: int, used: int, width: int, dimension: float) -> tuple[Tensor, int]:
    """The top `width` Ritz vectors of symmetric matrices (b, n, n) in a block Krylov space, fully reorthogonalized.

    From `dimension` columns on, the space grows until the first k vectors have converged, or no longer get better, with
    respect to the span of the first `used`.

    Returns:
        the vectors (b, n, width), and the dimension that would have been enough.
    """
    batch, n, _ = g.shape
    limit = int(min(3 * dimension, 4 * n // 5)) // BLOCK * BLOCK
    basis, projected = g.new_empty(batch, n, limit), g.new_empty(batch, limit, limit)
    block = times(g, random_block(g, seed=1))  # the random block itself would help no top vector
    size, error, end, vectors = g.new_zeros(batch), g.new_full((batch,), math.inf), 0, basis
    largest, grown = size, False
    while end < limit:
        start, end = end, end + BLOCK
        q, r = qr(block)
        least = torch.maximum(_CANCELLED * size, _EXHAUSTED * largest)
        if bool((r.diagonal(dim1=-2, dim2=-1).abs().amin(-1) < least).any()):
            q, parts = _without(q, basis[..., :start])
            projected[..., :start, start - BLOCK : start].add_(parts @ r)
            q, _ = qr(q)
        basis[..., start:end] = q
        block = times(g, q)
        size = torch.linalg.matrix_norm(block) / BLOCK**0.5
        largest = torch.maximum(largest, size)
        # But for rounding only the last two blocks matter; once is not enough for them, twice is (Kahan).
        first = max(0, start - BLOCK)
        block, near = _without(block, basis[..., first:end])
        block, parts = _without(block, basis[..., :end])
        projected[..., :end, start:end] = parts
        projected[..., first:end, start:end].add_(near)
        if end < min(dimension, limit):
            continue
        vectors, gaps = _projected_eigenvectors(projected[..., :end, :end], k, used)
        residuals = (block @ vectors[..., -BLOCK:, :k]).norm(dim=-2)
        before, error = error, (residuals / gaps).square().mean(-1).sqrt()
        growing = (error > _CONVERGED) & (error < before / 2)
        if not growing.any():
            break
        grown = True
        dimension = end + BLOCK * math.log(float(error[growing].max()) / _CONVERGED, 4)  # a block gains that or more
    last = float(error.max())
    spare = int(math.log(_CONVERGED / last, _GAIN)) if 0 < last < _CONVERGED and not grown else 0
    return times(basis[..., :end], vectors[..., :width]), end - BLOCK * spare


def _without(block: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Columns (b, n, BLOCK) without their parts in an orthonormal basis (b, n, l), and those parts (b, l, BLOCK)."""
    parts = transposed_times(basis, block)
    return block - times(basis, parts), parts


def _projected_eigenvectors(projected: Tensor, k: int, used: int) -> tuple[Tensor, Tensor]:
    """All eigenvectors of symmetric matrices given above the diagonal, and gaps of the first k to those beyond `used`.

    A gap is infinite where more of the Krylov space is of no use: the component is lost in the rounding of the Gram
    matrix.
    """
    values, vectors = eigh(projected, "U")
    real = values[..., -k:] > _rounding(values)
    matrix = (projected.triu() + projected.triu(1).mT).double()
    vectors, good = _corrected_eigenvectors(matrix, values, vectors, k, used)
    if not good:
        values, vectors = (part.to(projected) for part in eigh(matrix))
        real = torch.zeros_like(real)
    gaps = (values[..., -k:] - values[..., -used - 1, None]).clamp(min=0) + EPS * values[..., -1:]
    return vectors.flip(-1), torch.where(real, gaps, torch.inf).flip(-1)


def _corrected_eigenvectors(matrix: Tensor, values: Tensor, vectors: Tensor, k: int, used: int) -> tuple[Tensor, bool]:
    """Eigenvectors (the smallest first) of float64 matrices from float32 ones, and whether that suffices.

    What float32 mixes into the top k of those beyond the top `used` is taken out to first order; what it mixes within,
    a Rayleigh-Ritz step sees. Then the top `used` are made orthonormal.
    """
    rest, middle, top = vectors.double().tensor_split((vectors.shape[-1] - used, vectors.shape[-1] - k), -1)
    image = times(matrix, top)
    ritz = (top * image).sum(-2, keepdim=True)
    gaps = ritz - values[..., : rest.shape[-1], None].double()
    meant = (values > _rounding(values))[..., None, -k:]
    turn = transposed_times(rest, image - top * ritz) / torch.where(meant, gaps, torch.inf)
    found = torch.cat([middle, top + times(rest, turn)], -1).to(vectors)
    found = 1.5 * found - times(found, gram(found)) / 2
    return torch.cat([vectors[..., :-used], found], -1), bool((torch.linalg.matrix_norm(turn) < _TURN).all())


def _rounding(values: Tensor) -> Tensor:
    """The size of eigenvalues (b, n), the largest last, that are rounding of a float32 Gram matrix."""
    return 4 * EPS * values[..., -1:]


def random_block(x: Matrices, seed: int = 0) -> Tensor:
    """Random vectors (n, BLOCK) for matrices (b, m, n): always the same, so that equal weights give equal merges."""
    drawn = torch.randn(x.shape[-1], BLOCK, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return drawn.to(x.device, x.dtype)
