"""Decompositions of several jobs in one batch, for a GPU."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor

from tsv_exp.decompositions.algebra import Algebra
from tsv_exp.decompositions.numerics import Matrices, whole
from tsv_exp.layers import LowRank

Result = TypeVar("Result")

CPU = torch.device("cpu")


class BatchedAlgebra:
    """An algebra that collects the requests of all jobs of a `run` and computes them together.

    A job may send any number of requests. Requests of different shapes or kinds form different batches.
    """

    def __init__(self, algebra: Algebra, place: torch.device = CPU) -> None:
        self.algebra = algebra
        self.place = place
        # torch loads its linear algebra for GPUs at the first use, which must not be in several threads at once
        torch.linalg.inv(torch.ones(1, 1, device=place))
        self._running = 0
        self._asked: dict[tuple[Any, ...], list[tuple[Tensor, Future[Any]]]] = defaultdict(list)
        self._lock = RLock()

    def run(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run every job in its own thread and return the results."""
        self._running = len(jobs)
        with ThreadPoolExecutor(len(jobs), initializer=self._open) as pool:
            return list(pool.map(self._finish, jobs))

    def _open(self) -> None:
        """Open the GPU in a thread: torch warns where a matrix product comes first."""
        torch.zeros((), device=self.place)

    def truncated_svd(self, matrices: Matrices, k: int) -> LowRank:
        """The top k singular components, as `linalg.truncated_svd`."""
        found: LowRank = self._ask(whole(matrices), "truncated_svd", k)
        return found

    def polar(self, matrices: Tensor) -> LowRank:
        """The polar factors, as `linalg.polar`."""
        found: LowRank = self._ask(matrices, "polar")
        return found

    def _finish(self, job: Callable[[], Result]) -> Result:
        try:
            return job()
        finally:
            with self._lock:
                self._running -= 1
                self._answer()

    def _ask(self, matrices: Tensor, name: str, *arguments: int) -> Any:
        if not self._running:
            return getattr(self.algebra, name)(matrices, *arguments)
        answer: Future[Any] = Future()
        with self._lock:
            self._asked[name, arguments, matrices.shape, matrices.dtype].append((matrices, answer))
            self._answer()
        return answer.result()

    def _answer(self) -> None:
        """Compute all requests once every running job has sent one."""
        if sum(map(len, self._asked.values())) < self._running:
            return
        for (name, arguments, *_), asked in self._asked.items():
            try:
                found = getattr(self.algebra, name)(torch.stack([matrices for matrices, _ in asked]), *arguments)
            except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
                for _, answer in asked:
                    answer.set_exception(error)
                continue
            for part, (_, answer) in zip(map(LowRank, *found), asked, strict=True):
                answer.set_result(part)
        self._asked.clear()
