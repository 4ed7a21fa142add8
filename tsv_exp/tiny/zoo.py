"""The fine-tuned checkpoints: trained once, kept in the user's cache, checked whenever they are read."""

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tsv_exp.checkpoints.writer import save
from tsv_exp.files import atomic, cache_dir, digest, locked
from tsv_exp.progress import console

Weights = Mapping[str, Tensor]
MARK = "tsv_exp.digest"  # in a file's metadata: of its key and its weights together


def _read(path: Path, key: str) -> Weights | None:
    """The weights in `path`, or None where it is absent, damaged, or not what `key` stands for."""
    try:
        with safe_open(path, framework="pt") as file:
            mark = (file.metadata() or {}).get(MARK)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError):
        return None
    return weights if mark == digest(key, weights) else None


def cached(name: str, key: str, make: Callable[[], Weights]) -> Weights:
    """The weights that `key` stands for, from the cache; made and stored there if they are missing or damaged.

    Processes that want the same weights wait for the first one to make them.

    Args:
        name: for people, begins the file's name.
        key: digest of everything that the weights depend on.
        make: trains them.

    Raises:
        UserError: the cache cannot be written.
    """
    path = cache_dir() / "tiny" / f"{name}-{key[:20]}.safetensors"
    with locked(path):
        weights = _read(path, key)
        if weights is not None:
            return weights
        if path.exists():
            console.print(f"{path} is damaged or foreign: training it again")
        weights = {name: value.detach().clone() for name, value in make().items()}
        with atomic(path) as temporary:
            save(temporary, weights, {MARK: digest(key, weights)})
        return weights
