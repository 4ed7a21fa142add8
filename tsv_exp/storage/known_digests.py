"""Cache of SHA-256 digests of large files, keyed by path, size and modification time."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import atomic, cache_dir

LARGE = 1 << 26  # smallest file size (bytes) whose digest is cached


def known_digests(files: Iterable[Path]) -> dict[Path, str]:
    """Hexadecimal SHA-256 of each file, as `sha256sum` prints it."""
    chosen = list(files)
    with ThreadPoolExecutor() as pool:
        return dict(zip(chosen, pool.map(_digest, chosen), strict=True))


def _digest(file: Path) -> str:
    path = file.resolve()
    status = path.stat()
    if status.st_size < LARGE:
        return _sha256(path)
    seen = [str(path), status.st_size, status.st_mtime_ns, status.st_ino]
    place = cache_dir() / "digests" / f"{digest(str(path))[:32]}.json"
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["seen"] == seen:
            return str(kept["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not cached, or damaged
    found = _sha256(path)
    with atomic(place) as written:
        written.write_text(json.dumps({"seen": seen, "sha256": found}))
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
