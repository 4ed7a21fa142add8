"""Truncated singular value decompositions, polar factors and Gram matrices of batches of matrices, on any device."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from tsv_exp.layers import LowRank

Method = TypeVar("Method", bound=Callable[..., Any])


class Algebra(Protocol):
    """The two decompositions that the methods are written in; the engine chooses how they are computed.

    Where its attribute `one_by_one` is true it gains nothing from having all matrices of a layer at once.
    """

    def truncated_svd(self, matrices: Tensor, k: int) -> LowRank:
        """The top k singular components of matrices (..., m, n); see `truncated_svd`."""
        ...

    def polar(self, matrices: Tensor) -> LowRank:
        """The polar factors of matrices (..., m, n) as products; see `polar`."""
        ...


def significant(singular_values: Tensor, m: int, n: int) -> Tensor:
    """Which of the descending singular values (..., r) of m × n matrices exceed rounding: max(m, n) · eps · σ_1."""
    eps = torch.finfo(singular_values.dtype).eps
    return singular_values > max(m, n) * eps * singular_values[..., :1]


def independent(singular_values: Tensor, m: int, n: int) -> Tensor:
    """Which singular values (..., r) of m × n matrices are kept in a polar factor: those above √max(m, n) · eps · σ_1.

    This is where rounding leaves the null directions of a matrix of unit columns. A square one of random directions has
    a smallest singular value of about 1/n, now and then far below: the factor needs that direction.
    """
    eps = torch.finfo(singular_values.dtype).eps
    return singular_values > max(m, n) ** 0.5 * eps * singular_values.amax(-1, keepdim=True)


def gram(x: Tensor) -> Tensor:
    """The Gram matrices xᵀx (..., n, n) of matrices (..., m, n) in float32 or float64."""
    if x.device.type != "cpu":
        return x.mT @ x
    array = x.detach().numpy()
    return torch.from_numpy(array.swapaxes(-1, -2) @ array)  # numpy sees that it is symmetric, which halves the work


def truncated_svd(matrices: Tensor, k: int) -> LowRank:
    """The top k singular components of matrices (..., m, n), of which null directions are left out.

    A component that does not stand out of rounding has a zero singular value and zero vectors in place of the
    arbitrary null vectors of a full SVD (the official code keeps those, which makes its merge depend on the library).
    All-zero matrices need no decomposition.

    Returns:
        u (..., m, k), s (..., k) descending, vh (..., k, n).
    """
    *batch, m, n = matrices.shape
    k = min(k, m, n)
    flat = matrices.reshape(-1, m, n)
    u, s, vh = flat.new_zeros(len(flat), m, k), flat.new_zeros(len(flat), k), flat.new_zeros(len(flat), k, n)
    if k:
        for i in flat.flatten(1).any(1).nonzero().flatten().tolist():
            left, values, right = torch.linalg.svd(flat[i], full_matrices=False)
            keep = significant(values, m, n)[:k]
            u[i], s[i], vh[i] = left[:, :k] * keep, values[:k] * keep, right[:k] * keep.unsqueeze(-1)
    return LowRank(u.view(*batch, m, k), s.view(*batch, k), vh.view(*batch, k, n))


def polar(matrices: Tensor) -> LowRank:
    """The polar factors P Qᵀ of matrices (..., m, n) with the thin SVD P D Qᵀ; null directions are left out.

    Returns:
        u = P (..., m, r), s (..., r) of ones, and zeros for null directions, vh = Qᵀ (..., r, n), r = min(m, n). Other
        algebras may give other factors of the same product.
    """
    if not matrices.numel():
        *batch, m, n = matrices.shape
        return LowRank(*(matrices.new_zeros(*batch, *shape) for shape in ((m, 0), (0,), (0, n))))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    return LowRank(left, independent(values, *matrices.shape[-2:]).to(left), right)


class Exact:
    """Full decompositions by LAPACK or cuSOLVER."""

    one_by_one = True
    truncated_svd = staticmethod(truncated_svd)
    polar = staticmethod(polar)


def factors_suffice(method: Method) -> Method:
    """Marks a method that reads its deltas (T, m, n) by `algebra.truncated_svd` alone, beside their shape.

    Task matrices that are products of thin factors are never formed for it.
    """
    method.factors_suffice = True  # type: ignore[attr-defined]
    return method


@dataclass(frozen=True)
class OneByOne:
    """The decompositions of `deltas`, of which only the shape is used: `one` gives the matrix of an index."""

    deltas: Tensor
    one: Callable[[int], Tensor]
    algebra: Algebra

    def truncated_svd(self, matrices: Tensor, k: int) -> LowRank:
        """The top k singular components, as `truncated_svd`."""
        if matrices is not self.deltas:
            return self.algebra.truncated_svd(matrices, k)
        return LowRank(*map(torch.cat, zip(*self._parts(k), strict=True)))

    def _parts(self, k: int) -> Iterator[LowRank]:
        for index in range(len(self.deltas)):
            yield self.algebra.truncated_svd(self.one(index).unsqueeze(0), k)

    def polar(self, matrices: Tensor) -> LowRank:
        """The polar factors, as `polar`."""
        return self.algebra.polar(matrices)


@dataclass(frozen=True)
class Factored:
    """The decompositions of `deltas` that are products of thin factors: what is decomposed is r × r.

    Any other matrix, and the polar factors, are left to `algebra`. Of `deltas` only the shape is used.
    """

    deltas: Tensor
    factors: Sequence[LowRank]
    algebra: Algebra

    def truncated_svd(self, matrices: Tensor, k: int) -> LowRank:
        """The top components, as `truncated_svd`: k, or as many as the widest factors have."""
        if matrices is not self.deltas:
            return self.algebra.truncated_svd(matrices, k)
        tasks, m, n = matrices.shape
        k = min(k, m, n, max(factors.s.shape[0] for factors in self.factors))
        like = self.factors[0].u
        found = LowRank(*(like.new_zeros(tasks, *shape) for shape in ((m, k), (k,), (k, n))))
        for i, factors in enumerate(self.factors):
            left, right = torch.linalg.qr(factors.u.double()), torch.linalg.qr(factors.vh.double().mT)
            u, s, vh = torch.linalg.svd((left.R * factors.s.double()) @ right.R.mT, full_matrices=False)
            s = s.to(like)
            rank = min(k, int(significant(s, m, n).sum()))
            found.u[i, :, :rank] = (left.Q @ u[:, :rank]).to(like)
            found.s[i, :rank] = s[:rank]
            found.vh[i, :rank] = (vh[:rank] @ right.Q.mT).to(like)
        return found

    def polar(self, matrices: Tensor) -> LowRank:
        """The polar factors, as `polar`."""
        return self.algebra.polar(matrices)
