"""Writes sharded safetensors one file at a time; finished files survive a crash and are verified before reuse."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from tsv_exp.checkpoints.configuration import Configuration
from tsv_exp.checkpoints.readers import read
from tsv_exp.errors import UserError
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import atomic, clear_partial_files, holder, locked
from tsv_exp.storage.tensor_files import Kinds, header, kinds, stream

STATE = ".tsv-merge"  # next to the result: recipe, and digest of every finished file


def shards(sizes: Mapping[str, int], limit: float) -> list[list[str]]:
    """Split names, in order, into groups of at most `limit` bytes in total."""
    files: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if files[-1] and used + size > limit:
            files.append([])
            used = 0
        files[-1].append(name)
        used += size
    return files


class Output:
    """A folder of weights that is being written.

    Args:
        folder: the output folder.
        stem: stem of the file names: <stem>.safetensors, or <stem>-00001-of-00002.safetensors and an index.
        count: number of files.
        recipe: digest of everything that the content depends on.
        metadata: metadata of every file.
        beside: other entries that the folder may contain.

    Raises:
        UserError: the folder contains something else.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        count: int,
        recipe: str,
        metadata: Mapping[str, str] | None = None,
        beside: Collection[str] = (),
    ) -> None:
        self.folder, self.stem, self._recipe, self._metadata = folder, stem, recipe, metadata
        self._known = (STATE, *beside)
        numbers = [f"-{i + 1:05}-of-{count:05}" for i in range(count)] if count > 1 else [""]
        self.files = [folder / f"{stem}{number}.safetensors" for number in numbers]

    @contextmanager
    def prepared(self, wait: bool) -> Iterator[None]:
        """Create the folder, or accept it as an interrupted run of the same recipe or of a run without finished files.

        The folder is locked meanwhile. With `wait` another process waits until this one is done or dead; otherwise it
        fails at once.
        """
        lock = self.folder / STATE / "writing"
        self._check()
        with locked(lock, -1 if wait else 0) as held:
            if not held:
                owner = holder(lock.with_suffix(".lock"))
                raise UserError(f"out={self.folder} is being written by {owner}; choose another folder, or wait=true")
            self._check()  # another process may have started here meanwhile
            with atomic(self._marker) as path:
                path.write_text(self._recipe)
            for place in (self.folder, self._marker.parent):
                clear_partial_files(place, "*")
            yield

    @property
    def _marker(self) -> Path:
        return self.folder / STATE / "recipe"

    def _check(self) -> None:
        if not self._ours():
            others = (entry for entry in self.folder.glob("*") if entry.name not in self._known)
            if any(others) or any(self._marker.parent.glob("*.safetensors")):
                raise UserError(
                    f"out={self.folder} already contains something else, or a merge with other inputs, options or "
                    "another version; remove it or choose another folder"
                )

    def _ours(self) -> bool:
        return self._marker.is_file() and self._marker.read_text() == self._recipe

    def _still_ours(self) -> None:
        if not self._ours():
            raise UserError(
                f"out={self.folder} was removed or taken by another merge while it was being written; "
                "remove it or choose another folder"
            )

    def finished(self, file: Path) -> bool:
        """Whether a file exists with the content that was written."""
        record = self.folder / STATE / f"{file.name}.sha256"
        return file.is_file() and record.is_file() and _sha256(file) == record.read_text()

    @property
    def digests(self) -> dict[str, str]:
        """File name -> hexadecimal SHA-256 of every finished file."""
        return {file.name: (self.folder / STATE / f"{file.name}.sha256").read_text() for file in self.files}

    def write(self, file: Path, kinds: Kinds, tensors: Iterable[Tensor]) -> None:
        """Write one file from a stream of tensors, then record it as finished."""
        with atomic(file) as path, path.open("wb") as opened:
            hashed = _Hashed(opened)
            stream(hashed, kinds, tensors, self._metadata)
            self._still_ours()
        with atomic(self.folder / STATE / f"{file.name}.sha256") as path:
            path.write_text(hashed.digest.hexdigest())

    def discard(self) -> None:
        """Remove what was written, after an error that the same command would meet again; another merge's stays."""
        if self._ours():
            for file in self.files:
                if (self._marker.parent / f"{file.name}.sha256").is_file():
                    file.unlink(missing_ok=True)
            for record in self._marker.parent.iterdir():
                if record.suffix != ".lock":  # others may wait for it
                    record.unlink()

    def piece(self, file: Path, names: Sequence[str]) -> Path:
        """Where a part of a file is stored until all parts exist."""
        return self.folder / STATE / f"{file.stem}-{digest(list(names))[:16]}.safetensors"

    def assemble(self, file: Path, pieces: Sequence[Path]) -> None:
        """Write one file from its parts."""
        opened = [(read(piece), header(piece)) for piece in pieces]
        tensors = {name: part[name] for part, names in opened for name in names if name != "__metadata__"}
        self.write(file, kinds(tensors), tensors.values())

    def finish(self, configuration: Configuration | None) -> int:
        """Write the index and the configuration files; returns the size of the weights in bytes."""
        self._still_ours()
        for piece in (self.folder / STATE).glob("*.safetensors*"):
            if not (self.folder / piece.name.removesuffix(".sha256")).exists():
                piece.unlink()
        total = sum(file.stat().st_size for file in self.files)
        if len(self.files) > 1:
            where = {name: file.name for file in self.files for name in header(file) if name != "__metadata__"}
            with atomic(self.folder / f"{self.stem}.safetensors.index.json") as path:
                path.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2))
        if configuration is not None:
            configuration.write(self.folder)
        self._still_ours()
        return total


class _Hashed:
    """A file that computes its digest while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes | memoryview, /) -> None:
        self.digest.update(data)
        self.file.write(data)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
