"""Computations side by side: their order, their threads, their memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock

import pytest
import torch

from tsv_exp.runtime.parallel.threads import check_stopped, map_in_threads


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class Meter:
    """How much is in work, and the most that ever was."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = Lock()

    @contextmanager
    def holding(self, amount: int) -> Iterator[None]:
        with self.lock:
            self.now += amount
            self.most = max(self.most, self.now)
        yield
        with self.lock:
            self.now -= amount


def test_results_come_in_order_and_everybody_has_one_thread_meanwhile(threads: int) -> None:
    def work(number: int) -> tuple[int, int]:
        time.sleep(0.001 * (5 - number % 5))
        return number, torch.get_num_threads()

    found = [(*result, torch.get_num_threads()) for result in map_in_threads(work, range(20), lambda _: 1)]
    assert found == [(number, 1, 1) for number in range(20)]
    assert torch.get_num_threads() == threads


def test_a_worker_that_shares_out_its_work_has_all_threads_again(threads: int) -> None:
    workers = Meter()

    def inner(number: int) -> int:
        with workers.holding(1):
            time.sleep(0.01)
        return number

    def outer(_: int) -> tuple[list[int], int]:
        return list(map_in_threads(inner, range(9), lambda _: 1)), torch.get_num_threads()

    assert list(map_in_threads(outer, [0], lambda _: 1)) == [(list(range(9)), 1)]
    assert workers.most == threads
    assert torch.get_num_threads() == threads


def test_what_is_in_work_fits_the_budget_but_for_the_first_item(threads: int) -> None:
    memory = Meter()

    def work(size: int) -> int:
        with memory.holding(size):
            time.sleep(0.002)
        return size

    sizes = [7, 3, 3, 12, 5, 5, 1]
    assert list(map_in_threads(work, sizes, lambda size: size, budget=10)) == sizes
    assert memory.most <= 12


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_a_long_item_does_not_hold_up_the_many_short_ones_after_it(threads: int) -> None:
    last = Event()

    def work(number: int) -> bool:
        if number == 20:
            last.set()
        return number > 0 or last.wait(30)

    assert all(map_in_threads(work, range(21), lambda _: 1))


def test_an_error_comes_out_and_the_threads_come_back(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_threads(lambda number: 1 // number, [1, 0, 1], lambda _: 1))
    assert torch.get_num_threads() == threads


def test_a_long_item_stops_when_the_results_are_not_wanted_any_more(threads: int) -> None:
    check_stopped()  # outside workers it does nothing
    started, ended = Event(), []

    def long(item: int) -> int:
        started.set()
        for _ in range(1000):
            check_stopped()
            time.sleep(0.01)
        ended.append(item)
        return item

    results = map_in_threads(lambda item: long(item) if item else item, range(2), lambda _: 1)
    assert next(results) == 0
    assert started.wait(5)
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)
    assert not ended
