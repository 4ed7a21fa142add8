"""Fast decompositions in float32 that certify their result, or hand the matrix over to the exact ones.

The top k of n singular components (k ≪ n) come from a block Krylov space of the Gram matrix (Golub & Underwood 1977,
Musco & Musco, arXiv 1504.05477), mended by Rayleigh-Ritz steps on the matrix itself, since a float32 Gram matrix loses
the small components of a steep spectrum; where that does not suffice, from a float64 Gram matrix. The polar factor
comes from eigenvectors of the Gram matrix in float32, or in float64 where needed, and is corrected to first order.
Nearly all of the work is matrix products; every step is batched and runs on any device.
"""

import logging
import math
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tsv_exp import linalg
from tsv_exp.layers import LowRank

log = logging.getLogger(__name__)
_lock = Lock()

_EPS = torch.finfo(torch.float32).eps
_BLOCK = 16  # columns per Krylov step: small blocks reach higher powers of the Gram matrix at equal dimension
_PASSES = 4  # Rayleigh-Ritz steps before giving up
_ANGLE = 1e-5  # root mean square angle (radians) between found and true singular vectors, estimated from residuals
_CONVERGED = _ANGLE / 3  # such an angle in a Krylov space, for which one Rayleigh-Ritz step is enough
_CANCELLED = 0.1  # what a Krylov step leaves of its columns, below which rounding is not orthogonal to the basis
_TURN = 1e-2  # norm of a first-order correction of eigenvectors up to which it suffices
_RESIDUAL = 6 * _EPS  # relative to σ_1: what a backward stable float32 decomposition leaves
_BULK = 3e-3  # first angle above which Krylov spaces do not pay: no decay near the cut, or too steep for float32
_LARGE = 256  # columns from which the float32 Gram matrix of a flat spectrum is as good as it needs to be
_WELL_CONDITIONED = 1e-2  # ratio of the eigenvalues of a Gram matrix above which float32 keeps its inverse root
_CORRECTABLE = 1e-4  # such a ratio, but for the smallest eighth, below which float32 loses the eigenvectors
_FIRST_ORDER = 0.03  # size of an error whose square is negligible
_SAFE = 1e-9  # magnitudes between this and its inverse can be squared in float32 without scaling
_ORTHOGONAL = 1e-3  # largest entry of UᵀU − I, and relative error of polar(X) on random probes
_GAP = 1.01  # how far above the last kept eigenvalue a missed one would be noticed


@dataclass
class Certified:
    """Truncated decompositions and polar factors of float32 matrices; `fallbacks` of `total` were computed exactly."""

    one_by_one: ClassVar[bool] = True
    total: int = 0
    fallbacks: int = 0

    def truncated_svd(self, matrices: Tensor, k: int) -> LowRank:
        """The top k singular components, as `linalg.truncated_svd`."""
        m, n = matrices.shape[-2:]
        self._count(total=matrices[..., 0, 0].numel())
        if matrices.dtype != torch.float32 or not 0 < k <= min(m, n) // 3 or min(m, n) < 6 * _BLOCK:
            return linalg.truncated_svd(matrices, k)
        if m < n:
            u, s, vh = self._leading(matrices.mT, k)
            return LowRank(vh.mT, s, u.mT)
        return self._leading(matrices, k)

    def _leading(self, matrices: Tensor, k: int) -> LowRank:
        *batch, m, n = matrices.shape
        flat = matrices.reshape(-1, m, n)
        u, s, vh = flat.new_zeros(len(flat), m, k), flat.new_zeros(len(flat), k), flat.new_zeros(len(flat), k, n)
        scale = torch.maximum(flat.amax((-2, -1)), -flat.amin((-2, -1)))
        # A processor's cache holds one matrix; a graphics card wants them all at once.
        rows = scale.nonzero().flatten()
        for chosen in rows.split(1 if flat.device.type == "cpu" else len(rows)) if len(rows) else ():
            found, good = leading(flat.narrow(0, int(chosen), 1) if len(chosen) == 1 else flat[chosen], k)
            u[chosen], s[chosen], vh[chosen] = found
            for i in chosen[~good].tolist():
                self._count(fallbacks=1)
                log.info("a %d × %d matrix could not be certified and is decomposed exactly", m, n)
                u[i], s[i], vh[i] = linalg.truncated_svd(flat[i], k)
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


def leading(matrices: Tensor, k: int) -> tuple[LowRank, Tensor]:
    """The top k components of matrices (b, m, n), m ≥ n, none of them zero, and which of the b are certified."""
    x, scale = _scaled(matrices)
    gram_matrix = gram(x)
    n, width = x.shape[-1], min(x.shape[-1], k + max(k // 2, _BLOCK))
    effective_ranks, ritz = _effective_ranks(gram_matrix), None
    least, most = float(effective_ranks.min()), float(effective_ranks.max())
    used = width if least < k / 3 else k + _BLOCK  # the steeper the spectrum, the wider float32 must reach
    dimension = 2 * k + _BLOCK * math.log2(most) + 60  # the slower it falls, the larger a space it takes: power laws
    if n >= _LARGE and least > 0.4 * n:
        basis = torch.linalg.eigh(gram_matrix).eigenvectors.flip(-1)[..., :width]
        ritz = _ritz(x, basis[..., :used], k)
    elif dimension <= 3 * n // 4:
        basis = _krylov(gram_matrix, k, used, width, dimension)
        ritz = _ritz(x, basis[..., :used], k)
    if ritz is None or float(ritz.angles.max()) > _BULK:
        basis = torch.linalg.eigh(gram(x.double())).eigenvectors.flip(-1)[..., :width].float()
        ritz = _ritz(x, basis, k)
    for _ in range(_PASSES - 1):
        if bool(_accurate(ritz).all()):
            break
        basis = torch.linalg.qr(x.mT @ (x @ basis)).Q  # a step of subspace iteration; its extra width speeds it up
        ritz = _ritz(x, basis, k)
    keep = ritz.keep.unsqueeze(-2)
    factors = LowRank(ritz.u * keep, ritz.s[:, :k].float() * ritz.keep, (ritz.v * keep).mT)
    good = _accurate(ritz) & _orthonormal(factors) & _complete(x, gram_matrix, factors)
    return LowRank(factors.u, factors.s * scale[..., 0], factors.vh), good


def gram(x: Tensor) -> Tensor:
    """xᵀx of matrices (..., m, n) in float32 or float64."""
    if x.device.type != "cpu":
        return x.mT @ x
    array = x.detach().numpy()
    return torch.from_numpy(array.swapaxes(-1, -2) @ array)  # numpy sees that it is symmetric, which halves the work


def _effective_ranks(g: Tensor) -> Tensor:
    """tr(G)² / ‖G‖² (b,) of symmetric matrices (b, n, n): n where all eigenvalues are equal, 1 for rank one."""
    trace = g.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (trace / torch.linalg.matrix_norm(g)).square()


def _krylov(g: Tensor, k: int, used: int, width: int, dimension: float) -> Tensor:
    """The top `width` Ritz vectors of symmetric matrices (b, n, n) in a block Krylov space, fully reorthogonalized.

    From `dimension` columns on, the space grows until the first k vectors have converged, or no longer get better, with
    respect to the span of the first `used`.
    """
    batch, n, _ = g.shape
    limit = 4 * n // 5 // _BLOCK * _BLOCK
    basis, projected = g.new_empty(batch, n, limit), g.new_zeros(batch, limit, limit)
    block = _probe(g, seed=1).expand(batch, -1, -1)
    size, error, end, vectors = g.new_zeros(batch), g.new_full((batch,), math.inf), 0, basis
    while end < limit:
        start, end = end, end + _BLOCK
        q, r = torch.linalg.qr(block)
        if bool((r.diagonal(dim1=-2, dim2=-1).abs().amin(-1) < _CANCELLED * size).any()):
            parts = basis[..., :start].mT @ q
            projected[..., :start, start - _BLOCK : start].add_(parts @ r)
            q = torch.linalg.qr(q - basis[..., :start] @ parts).Q
        basis[..., start:end] = q
        block = g @ q
        size = torch.linalg.matrix_norm(block) / _BLOCK**0.5
        # But for rounding only the last two blocks matter; once is not enough for them, twice is (Kahan).
        for first in (max(0, start - _BLOCK), 0):
            earlier = basis[..., first:end]
            parts = earlier.mT @ block
            projected[..., first:end, start:end].add_(parts)
            block = torch.baddbmm(block, earlier, parts, alpha=-1)
        if end < min(dimension, limit):
            continue
        vectors, gaps = _projected_eigenvectors(projected[..., :end, :end], k, used)
        residuals = (block @ vectors[..., -_BLOCK:, :k]).norm(dim=-2)
        before, error = error, (residuals / gaps).square().mean(-1).sqrt()
        growing = (error > _CONVERGED) & (error < before / 2)
        if not growing.any():
            break
        dimension = end + _BLOCK * math.log(float(error[growing].max()) / _CONVERGED, 4)  # a block gains that or more
    return basis[..., :end] @ vectors[..., :width]


def _projected_eigenvectors(projected: Tensor, k: int, used: int) -> tuple[Tensor, Tensor]:
    """All eigenvectors of symmetric matrices given above the diagonal, and gaps of the first k to those beyond `used`.

    A gap is infinite where more of the Krylov space is of no use: the component is lost in the rounding of the Gram
    matrix.
    """
    values, vectors = torch.linalg.eigh(projected, UPLO="U")
    real = values[..., -k:] > _rounding(values)
    matrix = (projected.triu() + projected.triu(1).mT).double()
    vectors, good = _corrected_eigenvectors(matrix, values, vectors, k, used)
    if not good:
        values, vectors = (part.to(projected) for part in torch.linalg.eigh(matrix))
        real = torch.zeros_like(real)
    gaps = (values[..., -k:] - values[..., -used - 1, None]).clamp(min=0) + _EPS * values[..., -1:]
    return vectors.flip(-1), torch.where(real, gaps, torch.inf).flip(-1)


def _corrected_eigenvectors(matrix: Tensor, values: Tensor, vectors: Tensor, k: int, used: int) -> tuple[Tensor, bool]:
    """Eigenvectors (the smallest first) of float64 matrices from float32 ones, and whether that suffices.

    What float32 mixes into the top k of those beyond the top `used` is taken out to first order; what it mixes within,
    a Rayleigh-Ritz step sees. Then the top `used` are made orthonormal.
    """
    rest, middle, top = vectors.double().tensor_split((vectors.shape[-1] - used, vectors.shape[-1] - k), -1)
    image = matrix @ top
    ritz = (top * image).sum(-2, keepdim=True)
    gaps = ritz - values[..., : rest.shape[-1], None].double()
    meant = (values > _rounding(values))[..., None, -k:]
    turn = rest.mT @ (image - top * ritz) / torch.where(meant, gaps, torch.inf)
    found = torch.cat([middle, top + rest @ turn], -1).to(vectors)
    found = 1.5 * found - found @ gram(found) / 2
    return torch.cat([vectors[..., :-used], found], -1), bool((torch.linalg.matrix_norm(turn) < _TURN).all())


def _rounding(values: Tensor) -> Tensor:
    """The size of eigenvalues (b, n), the largest last, that are rounding of a float32 Gram matrix."""
    return 4 * _EPS * values[..., -1:]


def _ritz(x: Tensor, basis: Tensor, k: int) -> _Ritz:
    """Rayleigh-Ritz: the singular components of x restricted to an orthonormal basis (b, n, l), squared in float64."""
    image = x @ basis
    values, rotation = torch.linalg.eigh(gram(image.double()))
    s, rotation = values.flip(-1).clamp(min=0).sqrt(), rotation.flip(-1)[..., :k]
    keep = s[:, :k] > max(x.shape[-2:]) * _EPS * s[:, :1]
    u = image @ (rotation / torch.where(keep, s[:, :k], 1).unsqueeze(-2)).float()
    v = basis @ rotation.float()
    relative = s / s[:, :1]
    gaps = (relative[:, :k].square() - relative[:, -1:].square()).clamp(min=_EPS**2)

    def judged(norms: Tensor) -> tuple[Tensor, Tensor]:
        residuals = norms.double() * keep / s[:, :1]
        return residuals, (relative[:, :k] * residuals / gaps).square().mean(1).sqrt()

    # Random projections estimate the norms (Halko et al., arXiv 0909.4061, section 4.3) and leave out most of the work.
    right = v * s[:, :k].float().unsqueeze(-2)
    probe = _probe(x)
    residuals, angles = judged(((x @ probe).mT @ u - probe.mT @ right).norm(dim=-2) / probe.shape[-1] ** 0.5)
    if not bool((angles < _ANGLE).all()):
        residuals, angles = judged((x.mT @ u - right).norm(dim=-2))
    return _Ritz(u, s, v, keep, residuals, angles)


def _accurate(ritz: _Ritz) -> Tensor:
    return (ritz.angles < _ANGLE) | (ritz.residuals.amax(1) < _RESIDUAL)


def _orthonormal(factors: LowRank) -> Tensor:
    """Whether the kept vectors on both sides are orthonormal (b,)."""
    identity = torch.diag_embed((factors.s > 0).float())
    errors = [(side - identity).abs().flatten(1).amax(1) for side in (gram(factors.u), gram(factors.vh.mT))]
    return (errors[0] < _ORTHOGONAL) & (errors[1] < _ORTHOGONAL)


def _complete(x: Tensor, gram_matrix: Tensor, factors: LowRank) -> Tensor:
    """Whether nothing larger than the kept components was missed (b,).

    Sylvester's law of inertia: τI − (G − V Λ Vᵀ) has a Cholesky factor exactly if the rest of the spectrum is below τ.
    Where the spectrum is steep the rest is computed from what is left of x, beyond the rounding of G.
    """
    values = factors.s.double().square()
    first, last = values[:, 0], values[:, -1]
    if bool((last < 1e-4 * first).any()):
        rest = gram(torch.baddbmm(x, factors.u * factors.s.unsqueeze(-2), factors.vh, alpha=-1)).neg_()
        noise = (max(x.shape[-2:]) * _EPS) ** 2
    else:
        rest = torch.baddbmm(gram_matrix, factors.vh.mT * values.float().unsqueeze(-2), factors.vh, beta=-1)
        noise = 16 * _EPS
    shift = torch.maximum(_GAP * last + noise * first, 2 * noise * first).float()
    rest.diagonal(dim1=-2, dim2=-1).add_(shift.unsqueeze(-1))
    return torch.linalg.cholesky_ex(rest).info == 0


def gram_polar(x: Tensor) -> tuple[LowRank, Tensor]:
    """polar(x) = x (xᵀx)^(−1/2) of matrices (b, m, n), m ≥ n, without null directions, and which are certified (b,).

    The factors are (b, m, n), (b, n) and (b, n, n).
    """
    x = _scaled(x)[0]
    doubt = x.new_full((len(x),), torch.inf)
    values, vectors = torch.linalg.eigh(gram(x))
    first, middle, last = values[:, 0], values[:, values.shape[1] // 8], values[:, -1]
    if bool((first > _WELL_CONDITIONED * last).all()):
        root = (vectors * values.rsqrt().unsqueeze(1)) @ vectors.mT
        factors, doubt = LowRank(x, torch.ones_like(values), root), torch.zeros_like(doubt)
    elif bool((middle > _CORRECTABLE * last).all()):
        factors, vectors, doubt = _corrected_polar(x, vectors)
    if not bool((doubt < _FIRST_ORDER).all()):
        factors, vectors, doubt = _corrected_polar(x, torch.linalg.eigh(gram(x.double())).eigenvectors.to(x))
    probe = _probe(x)
    kept = vectors @ (factors.s.unsqueeze(-1) * (vectors.mT @ probe))
    image = factors.u @ (factors.vh @ probe)
    error = torch.linalg.matrix_norm(factors.vh.mT @ (factors.u.mT @ image) - kept) / probe.norm()
    return factors, (error < _ORTHOGONAL) & (doubt < _FIRST_ORDER)


def _corrected_polar(x: Tensor, vectors: Tensor) -> tuple[LowRank, Tensor, Tensor]:
    """polar(x) of (b, m, n) from approximate eigenvectors of xᵀx (the smallest first), to first order in their error.

    y = x · vectors has nearly orthogonal columns, whatever their sizes d: yᵀy = D (I + F) D is known to high relative
    accuracy, as in one-sided Jacobi. Perturbing the root of D (I + F) D gives polar(y) = y D⁻¹ (I − F ∘ W) with
    W_ij = d_i / (d_i + d_j). The smallest eigenvectors, where errors are largest, are first made exact.

    Returns:
        the factors, with zeros for null directions, the eigenvectors, and ‖F‖ (b,): the error is of its square.
    """
    y, vectors = x @ vectors, vectors.clone()
    small = slice(0, x.shape[-1] // 8 + 1)
    rotation = torch.linalg.eigh(gram(y[..., small].double())).eigenvectors.to(x)
    y[..., small], vectors[..., small] = y[..., small] @ rotation, vectors[..., small] @ rotation
    sizes = y.norm(dim=-2)
    keep = linalg.independent(sizes, *x.shape[-2:])
    y *= (keep / torch.where(keep, sizes, 1)).unsqueeze(-2)
    off = gram(y) - torch.diag_embed(keep.to(y))
    pairs = (sizes.unsqueeze(-1) + sizes.unsqueeze(-2)).clamp(min=torch.finfo(y.dtype).tiny)
    weighted = off * (sizes.unsqueeze(-1) / pairs)
    factors = LowRank(y, keep.to(y), vectors.mT - weighted @ vectors.mT)
    return factors, vectors, torch.linalg.matrix_norm(off)


def _probe(x: Tensor, seed: int = 0) -> Tensor:
    """Random vectors (n, _BLOCK) for matrices (b, m, n): always the same, so that equal weights give equal merges."""
    return torch.randn(x.shape[-1], _BLOCK, generator=torch.Generator().manual_seed(seed)).to(x)


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices (..., m, n), divided by their largest magnitude (..., 1, 1) where they cannot be squared as they are."""
    scale = torch.maximum(x.amax((-2, -1), keepdim=True), -x.amin((-2, -1), keepdim=True))
    if bool(((scale > _SAFE) & (scale < 1 / _SAFE)).all()):
        return x, torch.ones_like(scale)
    return x / scale, scale
