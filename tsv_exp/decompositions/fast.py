"""Fast decompositions in float32 that certify their result, with exact decompositions as the fallback.

The top k of n singular components (k ≪ n) come from a block Krylov space of the Gram matrix, improved by Rayleigh-Ritz
steps on the matrix itself, since a float32 Gram matrix loses the small components of a steep spectrum; where that does
not suffice, from the Gram matrix and one such step in float64. The polar factor comes from eigenvectors of the Gram
matrix in float32, or in float64 where needed, and is corrected to first order.
Nearly all of the work is matrix products; every step is batched and runs on any device.
"""

import logging
import math
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tsv_exp.decompositions import exact as linalg
from tsv_exp.decompositions import krylov
from tsv_exp.decompositions.cholesky import positive_definite
from tsv_exp.decompositions.fast_polar import gram_polar, scaled
from tsv_exp.decompositions.krylov import BLOCK, EPS, random_block
from tsv_exp.decompositions.numerics import (
    ORTHOGONAL,
    ROWS,
    Matrices,
    Rows,
    add_gram,
    eigh,
    gram,
    magnitude,
    qr,
    rounding,
    times,
    transposed_times,
)
from tsv_exp.layers import LowRank

log = logging.getLogger(__name__)
_lock = Lock()

_ANGLE = 1e-5  # root mean square angle (radians) between found and true singular vectors, estimated from residuals
_IMPROVABLE = 1e-4  # such an angle that one more step usually brings below that
_RESIDUAL = 6 * EPS  # relative to σ_1: suffices where values repeat at the cut, which leaves the angle open
_LARGE = 256  # columns from which the float32 Gram matrix of a flat spectrum is as good as it needs to be
_MOST_MORE = 2 * BLOCK  # columns by which a Krylov space starts larger than usual, because another one had to grow
_GAP = 1.01  # how far above the last kept eigenvalue a missed one would be noticed


@dataclass
class FastAlgebra:
    """Truncated decompositions and polar factors of float32 matrices; `fallbacks` of `total` were computed exactly."""

    one_at_a_time: ClassVar[bool] = True
    total: int = 0
    fallbacks: int = 0

    def truncated_svd(self, matrices: Matrices, k: int) -> LowRank:
        """The top k singular components, as `linalg.truncated_svd`."""
        m, n = matrices.shape[-2:]
        self._count(total=math.prod(matrices.shape[:-2]))
        if matrices.dtype != torch.float32 or not 0 < k <= min(m, n) // 3 or min(m, n) < 6 * BLOCK:
            return linalg.truncated_svd(matrices, k)
        if m < n:
            u, s, vh = self._leading(matrices.mT, k)
            return LowRank(vh.mT, s, u.mT)
        return self._leading(matrices, k)

    def _leading(self, matrices: Matrices, k: int) -> LowRank:
        *batch, m, n = matrices.shape
        flat = matrices.reshape(-1, m, n) if isinstance(matrices, Tensor) else matrices
        scale = magnitude(flat)
        u, s, vh = scale.new_zeros(len(scale), m, k), scale.new_zeros(len(scale), k), scale.new_zeros(len(scale), k, n)
        # A CPU's cache holds one matrix; a GPU computes all of them at once.
        rows = scale.nonzero().flatten()
        enough = None
        for chosen in rows.split(1 if flat.device.type == "cpu" else len(rows)) if len(rows) else ():
            found, good, enough = leading(_chosen(flat, chosen), k, enough)
            u[chosen], s[chosen], vh[chosen] = found
            for i in chosen[~good].tolist():
                self._count(fallbacks=1)
                log.info("a %d × %d matrix could not be certified and is decomposed exactly", m, n)
                u[i], s[i], vh[i] = linalg.truncated_svd(_chosen(flat, torch.tensor([i])), k)
        return LowRank(u.view(*batch, m, k), s.view(*batch, k), vh.view(*batch, k, n))

    def polar(self, matrices: Tensor) -> LowRank:
        """The polar factors of matrices, as `linalg.polar`; the product is the same, its factors are not."""
        *batch, m, n = matrices.shape
        if matrices.dtype != torch.float32 or not matrices.numel():
            return linalg.polar(matrices)
        if m < n:
            u, s, vh = self.polar(matrices.mT)
            return LowRank(vh.mT, s, u.mT)
        flat = matrices.reshape(-1, m, n)
        self._count(total=len(flat))
        factors, good = gram_polar(flat)
        if not good.all():
            factors = LowRank(*(part.clone() for part in factors))  # they may be the matrices themselves
        for i in (~good).nonzero().flatten().tolist():
            self._count(fallbacks=1)
            log.info("a %d × %d polar factor could not be certified and is computed exactly", m, n)
            for part, exact in zip(factors, linalg.polar(flat[i]), strict=True):
                part[i] = exact
        return LowRank(*(part.view(*batch, *part.shape[1:]) for part in factors))

    def _count(self, total: int = 0, fallbacks: int = 0) -> None:
        with _lock:  # layers are merged by several threads
            self.total += total
            self.fallbacks += fallbacks


def _chosen(matrices: Matrices, indices: Tensor) -> Matrices:
    if isinstance(matrices, Rows):  # a single one
        return matrices
    return matrices.narrow(0, int(indices), 1) if len(indices) == 1 else matrices[indices]


class _Ritz(NamedTuple):
    """The first k approximate singular components of matrices, and all s (b, l) in float64.

    residuals (b, k): norms of xᵀu − s v of the kept components, relative to σ_1.
    angles (b,): their root mean square angle to the true vectors, estimated as residual over gap of the Gram matrix.
    """

    u: Tensor
    s: Tensor
    v: Tensor
    keep: Tensor
    residuals: Tensor
    angles: Tensor


def leading(matrices: Matrices, k: int, enough: int | None = None) -> tuple[LowRank, Tensor, int | None]:
    """The top k components of matrices (b, m, n), m ≥ n, none of them zero, and which of the b are certified.

    Matrices of one layer need Krylov spaces of about the same dimension. `enough` columns were needed for those before;
    None: there were none. The third value is what to give for the next ones.
    """
    x, scale = scaled(matrices)
    gram_matrix = gram(x)
    n = x.shape[-1]
    # by rows a wider basis, whose gaps are larger, costs little beside a Gram matrix in float64
    width = min(n, k + max(k if isinstance(x, Rows) else k // 2, BLOCK))
    effective_ranks, ritz = _effective_ranks(gram_matrix), None
    least, most = float(effective_ranks.min()), float(effective_ranks.max())
    steep = least < k / 3
    used = min(width, k + (1 + steep) * BLOCK)  # the steeper the spectrum, the wider float32 must reach
    # the slower the spectrum falls, the larger a space it takes: power laws
    dimension = BLOCK * math.ceil(math.log2(most) + (2 * k + 44) / BLOCK)
    if n >= _LARGE and least > 0.4 * n:
        basis = eigh(gram_matrix)[1].flip(-1)[..., :width]
        ritz = _ritz(x, basis[..., :used], k)
    elif dimension <= 3 * n // 4:
        start = dimension if enough is None else max(min(enough, dimension + _MOST_MORE), used + k)
        basis, needed = krylov.top_vectors(gram_matrix, k, used, width, start)
        enough = max(enough or 0, needed)
        ritz = _ritz(x, basis[..., :used], k)
    if ritz is not None and _ANGLE <= float(ritz.angles.max()) < _IMPROVABLE:
        # the extra width of the basis speeds the step up
        ritz = _ritz(x, qr(transposed_times(x, times(x, basis)))[0], k)
    if ritz is None or not bool((ritz.angles < _ANGLE).all()):
        ritz = _ritz(x, eigh(gram(x, torch.float64))[1].flip(-1)[..., :width], k)
    keep = ritz.keep.unsqueeze(-2)
    kept = ritz.u * keep, ritz.s[:, :k] * ritz.keep, (ritz.v * keep).mT
    factors = LowRank(*(part.to(x.device, x.dtype) for part in kept))
    accurate = (ritz.angles < _ANGLE) | (ritz.residuals.amax(1) < _RESIDUAL)
    good = accurate & _orthonormal(factors) & _complete(x, gram_matrix, factors)
    if not bool(ritz.keep.all()):
        good &= _nothing_hidden(x, factors)
    return LowRank(factors.u, factors.s * scale[..., 0], factors.vh), good, enough


def _effective_ranks(g: Tensor) -> Tensor:
    """tr(G)² / ‖G‖² (b,) of symmetric matrices (b, n, n): n where all eigenvalues are equal, 1 for rank one."""
    trace = g.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (trace / torch.linalg.matrix_norm(g)).square()


def _ritz(x: Matrices, basis: Tensor, k: int) -> _Ritz:
    """Rayleigh-Ritz: the singular components of x restricted to an orthonormal basis (b, n, l), squared in float64.

    The rest is done in the dtype of the basis.
    """
    image = times(x, basis)
    values, rotation = eigh(gram(image.double()))
    s, rotation = values.flip(-1).clamp(min=0).sqrt(), rotation.flip(-1)[..., :k]
    keep = s[:, :k] > max(x.shape[-2:]) * EPS * s[:, :1]
    u = times(image, (rotation / torch.where(keep, s[:, :k], 1).unsqueeze(-2)).to(basis))
    v = times(basis, rotation.to(basis))
    relative = s / s[:, :1]
    gaps = (relative[:, :k].square() - relative[:, -1:].square()).clamp(min=EPS**2)

    def judged(norms: Tensor) -> tuple[Tensor, Tensor]:
        residuals = norms.double() * keep / s[:, :1]
        return residuals, (relative[:, :k] * residuals / gaps).square().mean(1).sqrt()

    # Random projections estimate the norms (Halko et al., arXiv 0909.4061, section 4.3) and leave out most of the work.
    right = v * s[:, :k].to(basis).unsqueeze(-2)
    probes = random_block(x).to(basis)
    residuals, angles = judged((transposed_times(times(x, probes), u) - probes.mT @ right).norm(dim=-2) / BLOCK**0.5)
    if not bool((angles < _ANGLE).all()):
        residuals, angles = judged((transposed_times(x, u) - right).norm(dim=-2))
    return _Ritz(u, s, v, keep, residuals, angles)


def _orthonormal(factors: LowRank) -> Tensor:
    """Whether the kept vectors on both sides are orthonormal (b,)."""
    identity = torch.diag_embed((factors.s > 0).float())
    errors = [(side - identity).abs().flatten(1).amax(1) for side in (gram(factors.u), gram(factors.vh.mT))]
    return (errors[0] < ORTHOGONAL) & (errors[1] < ORTHOGONAL)


def _nothing_hidden(x: Matrices, factors: LowRank) -> Tensor:
    """Whether the residual of matrices is rounding of their entries (b,), not components hidden by large entries.

    Of the residual (1 − U Uᵀ) (x − U S Vᵀ) (1 − V Vᵀ) only products with a few vectors are computed.
    """
    u, v, s = factors.u, factors.vh.mT, factors.s.unsqueeze(-1)

    def rest(y: Tensor) -> Tensor:
        y = y - v @ (v.mT @ y)
        image = times(x, y) - u @ (s * (v.mT @ y))
        return image - u @ (u.mT @ image)

    def transposed_rest(y: Tensor) -> Tensor:
        y = y - u @ (u.mT @ y)
        image = transposed_times(x, y) - v @ (s * (u.mT @ y))
        return image - v @ (v.mT @ image)

    basis, _ = qr(transposed_rest(rest(random_block(x))))
    left, values, right = torch.linalg.svd(rest(basis), full_matrices=False)
    largest = LowRank(left, values, right @ basis.mT)
    return (values <= rounding(largest, x, EPS)).all(-1)


def _complete(x: Matrices, gram_matrix: Tensor, factors: LowRank) -> Tensor:
    """Whether nothing larger than the kept components was missed (b,).

    Sylvester's law of inertia: τI − (G − V Λ Vᵀ) has a Cholesky factor exactly if the rest of the spectrum is below τ.
    Where the spectrum is steep the rest is computed from what is left of x, beyond the rounding of G.
    """
    values = factors.s.double().square()
    first, last = values[:, 0], values[:, -1]
    if bool((last < 1e-4 * first).any()):
        parts = zip(x.split(ROWS, -2), (factors.u * factors.s.unsqueeze(-2)).split(ROWS, -2), strict=True)
        rest = torch.zeros_like(gram_matrix)
        for part, u in parts:
            add_gram(rest, part - times(u, factors.vh), -1)
        noise = (max(x.shape[-2:]) * EPS) ** 2
    else:
        rest = -gram_matrix
        add_gram(rest, factors.s.unsqueeze(-1) * factors.vh)
        noise = 16 * EPS
    shift = torch.maximum(_GAP * last + noise * first, 2 * noise * first).float()
    rest.diagonal(dim1=-2, dim2=-1).add_(shift.unsqueeze(-1))
    return positive_definite(rest)
