"""Cache of weights that are expensive to compute: stored in a file and verified on every read."""

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tsv_exp.runtime.console import console
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import atomic, locked
from tsv_exp.storage.tensor_files import save

Weights = Mapping[str, Tensor]
MARK = "tsv_exp.digest"  # metadata key: digest of the cache key and the weights


def cached_weights(path: Path, key: str, make: Callable[[], Weights]) -> Weights:
    """The weights in a file if they match `key`; else compute and store them.

    Processes that need the same file wait for the first one to write it.

    Args:
        path: a safetensors file; its folder may be missing.
        key: digest of everything that the weights depend on.
        make: computes the weights.

    Raises:
        UserError: the file cannot be written.
    """
    if (weights := read_verified(path, key)) is not None:  # without a lock, since the folder may be read-only
        return weights
    with locked(path):
        weights = read_verified(path, key)
        if weights is not None:
            return weights
        if path.exists():
            console.print(f"{path} is damaged or unknown: recomputing it", markup=False, soft_wrap=True)
        weights = {name: value.detach().cpu().clone() for name, value in make().items()}
        write_verified(path, key, weights)
        return weights


def write_verified(path: Path, key: str, weights: Weights) -> None:
    """Write weights with their key and digest.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic(path) as temporary:
        save(temporary, weights, {MARK: digest(key, weights)})


def read_verified(path: Path, key: str) -> Weights | None:
    """The weights in `path`, or None if the file is missing, damaged, or has another key."""
    try:
        with safe_open(path, framework="pt") as file:
            mark = (file.metadata() or {}).get(MARK)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError):
        return None
    return weights if mark == digest(key, weights) else None
