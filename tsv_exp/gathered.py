"""Layers of one shape side by side, their decompositions in one batch, the next on their way: for a graphics card."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor

from tsv_exp.layers import LowRank
from tsv_exp.linalg import Algebra
from tsv_exp.parallel import BUDGET, ahead
from tsv_exp.task_vectors import Layer, TaskVectors

Result = TypeVar("Result")

_SHARE = 8  # of a card's free memory: deltas, the same stacked, those on their way, and room to compute


class Gathered:
    """An algebra that keeps the jobs of a `run` waiting until all of them have asked, and answers them together.

    A job may ask as often as it likes, or not at all; what differs in shape or kind is another batch.
    """

    def __init__(self, algebra: Algebra) -> None:
        self.algebra = algebra
        self._running = 0
        self._asked: dict[tuple[Any, ...], list[tuple[Tensor, Future[Any]]]] = defaultdict(list)
        self._lock = RLock()

    def map(
        self, function: Callable[[Layer], Result], stream: TaskVectors, names: Sequence[str] | None = None
    ) -> Iterator[Result]:
        """`function`, which decomposes by this algebra, of every layer (or the named ones), in order."""
        chosen = stream.names if names is None else names
        return stream.shown(self._in_order(function, stream, chosen), len(chosen))

    def _in_order(
        self, function: Callable[[Layer], Result], stream: TaskVectors, names: Sequence[str]
    ) -> Iterator[Result]:
        found: dict[str, Result] = {}
        left = deque(names)
        for layers in ahead(_loaded(stream, names)):
            made = self.run([partial(function, layer) for layer in layers])
            found |= zip([layer.name for layer in layers], made, strict=True)
            while left and left[0] in found:
                yield found.pop(left.popleft())

    def run(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        """The results of jobs, each in a thread of its own."""
        self._running = len(jobs)
        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(self._finish, jobs))

    def truncated_svd(self, matrices: Tensor, k: int) -> LowRank:
        """The top k singular components, as `linalg.truncated_svd`."""
        found: LowRank = self._ask(matrices, "truncated_svd", k)
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
        """Answer everybody, if all that run have asked."""
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


def _loaded(stream: TaskVectors, names: Sequence[str]) -> Iterator[list[Layer]]:
    """The layers in groups of one shape; on a card they are copied beside what it computes."""
    if stream.place.type != "cuda":
        yield from stream.groups(names, BUDGET)
        return
    groups = stream.groups(names, torch.cuda.mem_get_info(stream.place)[0] // _SHARE)
    while (layers := _next(groups, stream.place)) is not None:
        yield layers


def _next(groups: Iterator[list[Layer]], card: torch.device) -> list[Layer] | None:
    copying = torch.cuda.Stream(card)
    with torch.cuda.stream(copying):
        layers = next(groups, None)
    copying.synchronize()
    for layer in layers or ():
        if layer.factors is None:  # the memory is not given away before the computations on it are over
            layer.deltas.record_stream(torch.cuda.default_stream(card))
    return layers
