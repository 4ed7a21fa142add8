"""Distribution of work over torchrun's processes: rank, GPU and work items of each process."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from tsv_exp.runtime.devices import device_of


def rank_device(wanted: str) -> torch.device:
    """As `device_of`; with several processes each gets its own GPU unless one is named by its index.

    Raises:
        UserError: this machine has no such device.
    """
    device = device_of(wanted)
    numbered = device.type != "cuda" or device.index is not None
    return device if numbered or "LOCAL_RANK" not in os.environ else device_of(f"cuda:{os.environ['LOCAL_RANK']}")


@contextmanager
def process_group() -> Iterator[tuple[int, int, Any]]:
    """Rank, number of ranks and a barrier, under torchrun or in a single process."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world < 2:
        yield 0, 1, lambda: None
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=7))  # ranks wait for the slowest
    try:
        yield distributed.get_rank(), world, distributed.barrier
    finally:
        distributed.destroy_process_group()


def split_work(parts: Sequence[Sequence[str]], costs: Mapping[str, int], world: int) -> list[tuple[int, list[str]]]:
    """Work items (file index, names): whole files for one rank, else consecutive names of limited cost."""
    limit = sum(costs.values()) / world / 4 if world > 1 else sum(costs.values())
    cut: list[tuple[int, list[str]]] = []
    for whole, part in enumerate(parts):
        used = 0
        for i, name in enumerate(part):
            if i == 0 or used + costs[name] > limit:
                cut.append((whole, []))
                used = 0
            cut[-1][1].append(name)
            used += costs[name]
    return cut


def assigned(costs: Mapping[int, int], rank: int, world: int) -> list[int]:
    """The work items of one rank: assigned in order of decreasing cost, each to the rank with the least work so far."""
    loads, mine = [0] * world, []
    for index in sorted(costs, key=lambda i: (-costs[i], i)):
        owner = loads.index(min(loads))
        loads[owner] += costs[index]
        if owner == rank:
            mine.append(index)
    return sorted(mine)
