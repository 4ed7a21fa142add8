"""Computations side by side: their order, their threads, their memory."""

import time
from collections.abc import Iterator
from threading import Lock

import pytest
import torch

from tsv_exp.parallel import in_threads


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_everybody_has_one_thread_meanwhile(threads: int) -> None:
    def work(number: int) -> tuple[int, int]:
        time.sleep(0.001 * (5 - number % 5))
        return number, torch.get_num_threads()

    found = [(*result, torch.get_num_threads()) for result in in_threads(work, range(20), lambda _: 1)]
    assert found == [(number, 1, 1) for number in range(20)]
    assert torch.get_num_threads() == threads


def test_a_worker_that_shares_out_its_work_has_all_threads_again(threads: int) -> None:
    at_once, most, lock = 0, 0, Lock()

    def inner(number: int) -> int:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.01)
        with lock:
            at_once -= 1
        return number

    def outer(_: int) -> tuple[list[int], int]:
        return list(in_threads(inner, range(9), lambda _: 1)), torch.get_num_threads()

    assert list(in_threads(outer, [0], lambda _: 1)) == [(list(range(9)), 1)]
    assert most == threads
    assert torch.get_num_threads() == threads


def test_what_is_in_work_fits_the_budget_but_for_the_first_item(threads: int) -> None:
    running, most, lock = 0, 0, Lock()

    def work(size: int) -> int:
        nonlocal running, most
        with lock:
            running += size
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= size
        return size

    sizes = [7, 3, 3, 12, 5, 5, 1]
    assert list(in_threads(work, sizes, lambda size: size, budget=10)) == sizes
    assert most <= 12


def test_an_error_comes_out_and_the_threads_come_back(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // number, [1, 0, 1], lambda _: 1))
    assert torch.get_num_threads() == threads
