"""What the values of a configuration name: files, folders, and the user's own modules."""

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tsv_exp.storage.digests import digest

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def texts(value: Any) -> Iterator[str]:
    """The texts in nested plain containers."""
    if isinstance(value, dict):  # a key with dots is a function that a step of a method names
        value = [*value.values(), *(key for key in value if DOTTED.fullmatch(str(key)))]
    if isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def module_digests(value: Any) -> list[str]:
    """Digests of the sources of the modules and packages that a value's texts name, without this program's own.

    The name of a file that exists, as base.safetensors, names no module.
    """
    named = (text for text in texts(value) if DOTTED.fullmatch(text) and not Path(text).is_file())
    code = {text.split(".")[0] for text in named} - {"tsv_exp"}
    return [_module(name) for name in sorted(code)]


@cache
def files_digest(path: Path) -> str:
    """Digest of the names, sizes and modification times of a file, or of all files in a folder.

    Cached per process: reading a folder of images takes time, and a running job has read the earlier state.
    """
    found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = [(str(file), file.stat()) for file in found if "__pycache__" not in file.parts]
    return digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


@cache
def _module(name: str) -> str:
    """Digest of the source code of a user's module or package."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return ""
    places = [Path(place) for place in (spec.submodule_search_locations or [spec.origin or ""])] if spec else []
    return digest([files_digest(place) for place in places if str(place) != "." and place.exists()])
