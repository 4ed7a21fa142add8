"""The interface of the decompositions that methods call, and two adapters for matrices that are not in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from tsv_exp.decompositions.numerics import significant
from tsv_exp.layers import LowRank

Method = TypeVar("Method", bound=Callable[..., Any])


class Algebra(Protocol):
    """The two decompositions that methods call; the engine chooses the implementation.

    An implementation that gains nothing from all matrices of a layer at once sets the attribute `one_at_a_time`.
    """

    def truncated_svd(self, matrices: Tensor, k: int) -> LowRank:
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


@dataclass(frozen=True)
class TaskwiseAlgebra:
    """Decompositions of `deltas` task by task: `one` returns a task's matrix; of `deltas` only the shape is used."""

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
class FactoredAlgebra:
    """Decompositions of `deltas` that are products of thin factors of rank r, by SVDs of r × r matrices.

    `algebra` decomposes any other matrix and computes polar factors. Of `deltas` only the shape is used.
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
