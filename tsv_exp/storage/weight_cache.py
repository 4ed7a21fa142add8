"""Weights that take long to make: made once, cached_weights in a file, checked whenever they are read."""

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tsv_exp.runtime.console import console
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import atomic, locked
from tsv_exp.storage.tensor_files import save

Weights = Mapping[str, Tensor]
MARK = "tsv_exp.digest"  # in a file's metadata: of its key and its weights together


def cached_weights(path: Path, key: str, make: Callable[[], Weights]) -> Weights:
    """The weights in a file, if they are what `key` stands for; else they are made and stored there.

    Processes that want the same file wait for the first one to make it.

    Args:
        path: of a safetensors file, in a folder that may be missing.
        key: digest of everything that the weights depend on.
        make: makes them.

    Raises:
        UserError: the file cannot be written.
    """
    if (weights := read_verified(path, key)) is not None:  # without a lock: the folder may be read-only
        return weights
    with locked(path):
        weights = read_verified(path, key)
        if weights is not None:
            return weights
        if path.exists():
            console.print(f"{path} is damaged or foreign: making it again", markup=False, soft_wrap=True)
        weights = {name: value.detach().cpu().clone() for name, value in make().items()}
        write_verified(path, key, weights)
        return weights


def write_verified(path: Path, key: str, weights: Weights) -> None:
    """Write the weights that `key` stands for.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic(path) as temporary:
        save(temporary, weights, {MARK: digest(key, weights)})


def read_verified(path: Path, key: str) -> Weights | None:
    """The weights in `path`, or None where it is absent, damaged, or not what `key` stands for."""
    try:
        with safe_open(path, framework="pt") as file:
            mark = (file.metadata() or {}).get(MARK)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError):
        return None
    return weights if mark == digest(key, weights) else None
