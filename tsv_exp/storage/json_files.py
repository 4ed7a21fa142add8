"""Reads JSON from untrusted files."""

import json
from pathlib import Path
from typing import Any

_LARGEST = 256 << 20  # bytes
_DEEPEST = 100  # levels; functions that call themselves on parts of the content need one call for each


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, is nested too deeply, or contains text that is not valid Unicode.
    """
    if not path.is_file():
        raise OSError(f"{path.name} is missing, or not a regular file")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"larger than {_LARGEST >> 20} MiB")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # rejects lone surrogates, which json accepts
        _check_depth(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair, which is no text") from None
    return content


def _check_depth(content: Any) -> None:
    parts = [content]
    for _ in range(_DEEPEST):
        inside = (part.values() if isinstance(part, dict) else part for part in parts if isinstance(part, dict | list))
        parts = [value for values in inside for value in values if isinstance(value, dict | list)]
        if not parts:
            return
    raise RecursionError


def read_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file that holds an object.

    Raises:
        OSError, ValueError: as `read_json`, or it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, not {type(content).__name__}")
    return content


def values_of(content: Any, key: str) -> list[Any]:
    """All values of a key in an object and in the objects inside it, at any depth, outermost first."""
    found, parts = [], [content]
    while parts := [part for part in parts if isinstance(part, dict)]:
        found += [part[key] for part in parts if key in part]
        parts = [value for part in parts for value in part.values()]
    return found
