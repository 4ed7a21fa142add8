"""Stores which examples a run classified correctly, as one bit per test example of each task."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsv_exp.storage.files import atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "test_correct.npz"


def write_correct(folder: Path, correct: Mapping[str, "NDArray[np.bool_]"]) -> None:
    """Write task -> whether each test example (N,) was classified correctly into a run folder.

    Raises:
        UserError: the folder is not writable.
    """
    import numpy as np

    counts = np.array([len(right) for right in correct.values()])
    bits = np.concatenate([np.packbits(right) for right in correct.values()])
    with atomic(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, tasks=np.array(list(correct)), counts=counts, bits=bits)


def read_correct(folder: Path) -> dict[str, "NDArray[np.bool_]"]:
    """Read task -> whether each test example (N,) was classified correctly from a run folder.

    Raises:
        OSError, ValueError, KeyError, EOFError, BadZipFile: the file is missing, or is not what `write_correct` writes.
    """
    import numpy as np

    with np.load(folder / FILE, allow_pickle=False) as stored:
        names, counts, bits = (stored[name] for name in ("tasks", "counts", "bits"))
    if (names.dtype.kind, counts.dtype.kind, bits.dtype) != ("U", "i", np.uint8) or counts.ndim != 1:
        raise ValueError(f"{FILE} holds arrays of other kinds")
    if not 0 < counts.min(initial=1) <= counts.max(initial=1) < 1 << 40:
        raise ValueError(f"{FILE} holds numbers of examples that cannot be")
    parts = np.split(bits, np.cumsum(-(-counts // 8))[:-1])
    found: dict[str, Any] = {}
    for name, count, part in zip(names.tolist(), counts.tolist(), parts, strict=True):
        if len(part) != -(-count // 8):
            raise ValueError(f"{FILE} is cut short")
        found[name] = np.unpackbits(part, count=count).astype(np.bool_)
    return found
