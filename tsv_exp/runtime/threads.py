"""Many independent computations, one processor thread each: better than many threads in each, and the same result."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import local
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")

BUDGET = 1 << 30  # bytes in flight beyond the first item

_all = local()


def _use_one_thread(threads: int) -> None:
    _all.threads = threads
    torch.set_num_threads(1)


def map_in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    size: Callable[[Item], int],
    budget: int = BUDGET,
    cancel: Callable[[], object] = lambda: None,
) -> Iterator[Result]:
    """`function` of every item, in order, by as many workers as torch may use threads; each of them uses one.

    No more items are in work than fit `budget` bytes by their `size`, so memory does not grow with the machine. What is
    computed does not depend on the number of workers. Whoever takes the results has one thread too while there are more
    to come, as the workers have the others; a worker that calls this has them all, since it is waited for.
    After an error or an interruption `cancel` is called, then what is in work is waited for.
    """
    before = torch.get_num_threads()
    threads = max(before, getattr(_all, "threads", 0))
    pending: deque[tuple[Future[Result], int]] = deque()
    pool = ThreadPoolExecutor(threads, initializer=_use_one_thread, initargs=(threads,))
    try:
        torch.set_num_threads(1)
        with threadpool_limits(1, "blas"):  # numpy's own
            for item in items:
                need = size(item)
                while pending and sum(used for _, used in pending) + need > budget:
                    yield pending.popleft()[0].result()
                pending.append((pool.submit(function, item), need))
            while pending:
                yield pending.popleft()[0].result()
    except BaseException:
        cancel()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # the matrix library's setting is shared by all threads of the process


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch uses one thread inside: sums are then in the same order on every machine, whatever its number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each made by another thread while the one before it is in use; None is none of them."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = pool.submit(next, items, None)
            yield item
