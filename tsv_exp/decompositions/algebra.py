"""The interface of the decompositions that methods call, and two adapters for matrices that are not in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import Matrices, significant
from tsv_exp.layers import LowRank
from tsv_exp.runtime.parallel.threads import check_stopped

Method = TypeVar("Method", bound=Callable[..., Any])


class Algebra(Protocol):
    """The two decompositions that methods call; the engine chooses the implementation.

    An implementation that gains nothing from all matrices of a layer at once sets the attribute `one_at_a_time`.
    """

    def truncated_svd(self, matrices: Matrices, k: int) -> LowRank:
        """The top k singular components of matrices (..., m, n); see `truncated_svd`."""
        ...

    def polar(self, matrices: Tensor) -> LowRank:
        """The polar factors of matrices (..., m, n) as products; see `polar`."""
        ...


def factors_suffice(method: Method) -> Method:
    """Mark a method that uses its deltas (T, m, n) only through `algebra.truncated_svd` and their shape.

    The engine then never forms task matrices that are products of thin factors.
    """
    method.factors_suffice = True  # type: ignore[attr-defined]
    return method


def merges_products(product: Callable[..., LowRank]) -> Callable[[Method], Method]:
    """Mark a method whose merge of products of thin factors is itself such a product.

    Args:
        product: returns this merge as factors (m, K), (K,), (K, n). It has the arguments of the method, and uses its
            deltas only through `algebra.truncated_svd` and `sum_svd`.
    """

    def mark(method: Method) -> Method:
        method.product = product  # type: ignore[attr-defined]
        return method

    return mark


def sum_svd(deltas: Tensor, k: int, algebra: Algebra) -> LowRank:
    """The top k singular components (m, K), (K,), (K, n) of Σ_i Δ_i, without null directions."""
    if isinstance(algebra, FactoredAlgebra) and deltas is algebra.deltas:
        return algebra.sum_svd(k)
    found = algebra.truncated_svd(deltas.sum(0, keepdim=True), k)
    kept = found.s[0].nonzero().flatten()
    return LowRank(found.u[0].index_select(1, kept), found.s[0][kept], found.vh[0][kept])


def product_svd(factors: LowRank, shape: Sequence[int]) -> LowRank:
    """The singular components in float64 of a product (m, n) of thin factors, without null directions.

    They stand out of the rounding of the factors' own dtype.
    """
    left, right = torch.linalg.qr(factors.u.double()), torch.linalg.qr(factors.vh.double().mT)
    u, s, vh = torch.linalg.svd((left.R * factors.s.double()) @ right.R.mT, full_matrices=False)
    rank = int(significant(s.to(factors.u), *shape).sum())
    return LowRank(left.Q @ u[:, :rank], s[:rank], vh[:rank] @ right.Q.mT)


@dataclass(frozen=True)
class TaskwiseAlgebra:
    """Decompositions of `deltas` task by task: `one` returns a task's (1, m, n); of `deltas` only the shape is used."""

    deltas: Tensor
    one: Callable[[int], Matrices]
    algebra: Algebra

    def truncated_svd(self, matrices: Matrices, k: int) -> LowRank:
        """The top k singular components, as `truncated_svd`."""
        if matrices is not self.deltas:
            return self.algebra.truncated_svd(matrices, k)
        return LowRank(*map(torch.cat, zip(*self._parts(k), strict=True)))

    def _parts(self, k: int) -> Iterator[LowRank]:
        for index in range(len(self.deltas)):
            check_stopped()
            yield self.algebra.truncated_svd(self.one(index), k)

    def polar(self, matrices: Tensor) -> LowRank:
        """The polar factors, as `polar`."""
        return self.algebra.polar(matrices)


@dataclass(frozen=True)
class FactoredAlgebra:
    """Decompositions of `deltas` that are products of thin factors of rank r, by SVDs of r × r matrices.

    `algebra` decomposes any other matrix and computes polar factors. Of `deltas` only the shape is used.
    """

    deltas: Tensor
    factors: Sequence[LowRank]
    algebra: Algebra

    def truncated_svd(self, matrices: Matrices, k: int) -> LowRank:
        """The top components, as `truncated_svd`: k, or as many as the widest factors have."""
        if matrices is not self.deltas:
            return self.algebra.truncated_svd(matrices, k)
        tasks, m, n = matrices.shape
        k = min(k, m, n, max(factors.s.shape[0] for factors in self.factors))
        like = self.factors[0].u
        found = LowRank(*(like.new_zeros(tasks, *shape) for shape in ((m, k), (k,), (k, n))))
        for i, factors in enumerate(self.factors):
            u, s, vh = product_svd(factors, (m, n))
            rank = min(k, len(s))
            found.u[i, :, :rank], found.s[i, :rank], found.vh[i, :rank] = u[:, :rank], s[:rank], vh[:rank]
        return found

    def sum_svd(self, k: int) -> LowRank:
        """The top components of the sum, the product of all factors side by side; as the function `sum_svd`."""
        u, s, vh = zip(*self.factors, strict=True)
        found = product_svd(LowRank(torch.cat(u, 1), torch.cat(s), torch.cat(vh)), self.deltas.shape[1:])
        return LowRank(found.u[:, :k].to(u[0]), found.s[:k].to(u[0]), found.vh[:k].to(u[0]))

    def polar(self, matrices: Tensor) -> LowRank:
        """The polar factors, as `polar`."""
        return self.algebra.polar(matrices)
