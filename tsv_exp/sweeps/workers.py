"""Parallel jobs on one machine: their number, and the GPU of each; without torch, which would open a GPU."""

import os
import socket
import subprocess

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from tsv_exp.storage.files import cache_dir

CORES = 4  # per job without a GPU

_held: list[FileLock] = []


def gpus() -> list[str]:
    """The GPUs that this process may use, by the names CUDA_VISIBLE_DEVICES takes."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        asked = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        listed = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.splitlines() if line.strip()]


def jobs_at_once() -> int:
    """A job per GPU; without GPUs one per four cores, at least two."""
    return len(gpus()) or max(2, (os.cpu_count() or 1) // CORES)


def claim_gpu(number: int) -> None:
    """Reserve one of several GPUs for the rest of this process; if all are reserved, job `number` shares one."""
    found = gpus()
    if len(found) < 2:
        return
    first = number % len(found)
    chosen = found[first]
    for gpu in found[first:] + found[:first]:
        place = cache_dir() / "locks" / f"gpu-{socket.gethostname()}-{gpu}.lock"
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _held.append(lock)
        chosen = gpu
        break
    os.environ["CUDA_VISIBLE_DEVICES"] = chosen


OmegaConf.register_new_resolver("jobs_at_once", jobs_at_once, replace=True)
