"""Parallel independent computations, one CPU thread each: faster than multithreading each, with equal results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, local
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")

BUDGET = 1 << 30  # bytes in flight beyond the first item

_all = local()


def _use_one_thread(threads: int, stopped: Event) -> None:
    _all.threads, _all.stopped = threads, stopped
    torch.set_num_threads(1)


def check_stopped() -> None:
    """Raise CancelledError in a worker whose result nobody awaits any more, after an error or an interruption.

    Items that take long call it now and then, since `map_in_threads` awaits those in progress.
    """
    stopped = getattr(_all, "stopped", None)
    if stopped is not None and stopped.is_set():
        raise CancelledError


def map_in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    size: Callable[[Item], int],
    budget: int = BUDGET,
    cancel: Callable[[], object] = lambda: None,
) -> Iterator[Result]:
    """Apply `function` to every item, in order, with as many single-threaded workers as torch has threads.

    Items in progress take at most `budget` bytes by their `size`, so memory does not grow with the number of cores.
    Results do not depend on the number of workers. The consumer of the results is limited to one thread until the last
    result, since the workers use the others. A nested call from a worker uses all threads, since that worker waits.
    After an error or an interruption `cancel` is called, then the items in progress are awaited.
    """
    before = torch.get_num_threads()
    threads = max(before, getattr(_all, "threads", 0))
    pending: deque[tuple[Future[Result], int]] = deque()
    in_flight = 0
    stopped = Event()
    pool = ThreadPoolExecutor(threads, initializer=_use_one_thread, initargs=(threads, stopped))
    try:
        torch.set_num_threads(1)
        with threadpool_limits(1, "blas"):  # numpy's BLAS
            for item in items:
                need = size(item)
                while pending and in_flight + need > budget:
                    future, used = pending.popleft()
                    yield future.result()
                    in_flight -= used
                pending.append((pool.submit(function, item), need))
                in_flight += need
            while pending:
                yield pending.popleft()[0].result()
    except BaseException:
        stopped.set()
        cancel()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # a process-wide setting of the BLAS library


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread: sums then have the same order on every machine, for any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items; another thread computes the next one while the current one is in use. Items must not be None."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = pool.submit(next, items, None)
            yield item
