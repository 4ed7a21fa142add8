"""Distribution of work over torchrun's processes: rank, GPU and work items of each process."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Timer
from typing import Any

import torch

from tsv_exp.errors import UserError
from tsv_exp.runtime.devices import device_of
from tsv_exp.runtime.interrupts import immediate

log = logging.getLogger(__name__)

_NOTICE = 10.0  # seconds after which waiting for other processes is reported


def rank_device(wanted: str) -> torch.device:
    """As `device_of`; with several processes each gets its own GPU unless one is named by its index.

    Raises:
        UserError: this machine has no such device.
    """
    device = device_of(wanted)
    numbered = device.type != "cuda" or device.index is not None
    return device if numbered or "LOCAL_RANK" not in os.environ else device_of(f"cuda:{os.environ['LOCAL_RANK']}")


def world_size() -> int:
    """The number of processes that torchrun started; 1 without it.

    Raises:
        UserError: its environment variables are incomplete or invalid, as in a container that sets some of them.
    """
    given = os.environ.get("WORLD_SIZE", "1")
    world = int(given) if given.isdecimal() else 0
    numbers = [os.environ.get(name, "") for name in ("RANK", "MASTER_PORT")] if world > 1 else []
    if world < 1 or not all(map(str.isdecimal, numbers)) or (world > 1 and "MASTER_ADDR" not in os.environ):
        raise UserError(
            f"WORLD_SIZE={given} is set, and WORLD_SIZE, RANK, MASTER_ADDR and MASTER_PORT are not as torchrun sets "
            "them; start the processes with torchrun, or unset WORLD_SIZE"
        )
    return world


@contextmanager
def process_group() -> Iterator[tuple[int, int, Any]]:
    """Rank, number of ranks and a barrier, under torchrun or in a single process."""
    world = world_size()
    if world < 2:
        yield 0, 1, lambda: None
        return
    from torch import distributed

    told = Timer(_NOTICE, log.warning, [f"waiting for the other processes: WORLD_SIZE={world}; unset it to use one"])
    told.daemon = True
    told.start()
    with immediate():
        distributed.init_process_group("gloo", timeout=timedelta(days=7))  # ranks wait for the slowest
    told.cancel()
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
