"""Checkpoint files as lazy mappings name -> tensor: memory-mapped, read on access, without unpickling code."""

import hashlib
import logging
import pickle
import re
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from functools import cached_property
from os.path import isfile  # False also for names that the system refuses
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import safe_globals

from tsv_exp.checkpoints.checks.archives import check_records, check_sizes, is_archive
from tsv_exp.checkpoints.checks.content import check_content, is_safetensors, state_dict_of
from tsv_exp.checkpoints.folders import existing_weights_file
from tsv_exp.checkpoints.formats import SUFFIXES
from tsv_exp.errors import UserError
from tsv_exp.merging.inputs.weights import as_weights
from tsv_exp.runtime.messages.os_errors import cause, explain
from tsv_exp.storage.digests import digest
from tsv_exp.storage.json_files import read_object

log = logging.getLogger(__name__)

CONFIGURATION = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.bpe")  # of the hub's repositories


class Reader(Mapping[str, Tensor]):
    """One checkpoint; `digest` identifies its content without reading single tensors."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor] | None = None):
        self.path = path
        self._tensors = tensors or {}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def file_of(self, name: str) -> Path:
        """The file of a tensor, for error messages."""
        return self.path

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the stored content."""
        return file_digest(self.path)


class Safetensors(Reader):
    """One .safetensors file; tensors are views of the mapped file."""

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            self._file = safe_open(path, framework="pt")
            self._views: dict[str, Tensor | None] = dict.fromkeys(self._file.keys())  # kept: 0.1 ms to create one
        except (OSError, SafetensorError) as error:
            raise _damaged(path, error) from error

    def __getitem__(self, name: str) -> Tensor:
        if (known := self._views[name]) is not None:
            return known
        try:
            self._views[name] = view = self._file.get_tensor(name)
            return view
        except Exception as error:
            if (unknown := re.search(r"Dtype not understood: (\w+)", str(error))) is not None:
                raise UserError(
                    f"{self.path}: the tensor {name!r} is stored in {unknown[1]}, which PyTorch has no dtype for; "
                    "dequantize the model first"
                ) from error
            raise _damaged(self.path, error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


class Shards(Reader):
    """The files that an index such as model.safetensors.index.json lists."""

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            places = read_object(path).get("weight_map")
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
        if not isinstance(places, dict):
            raise _damaged(path, ValueError("it has no weight_map of tensors to files"))
        self._places = places
        for place in self._places.values():
            if not _beside(place):
                raise UserError(
                    f"{path} lists {place!r}, which is not a checkpoint file in its folder; fetch both again"
                )
        files = dict.fromkeys(self._places.values())
        for place in files:
            if not isfile(path.parent / place):
                raise UserError(f"{path.parent / place}: no such file, and {path} lists it; download or copy it again")
        self._shards = {place: read(path.parent / place) for place in sorted(files)}
        for name, place in self._places.items():
            if name not in self._shards[place]:
                raise UserError(f"{self.file_of(name)} lacks the tensor {name!r} that {path} lists; fetch both again")

    def __getitem__(self, name: str) -> Tensor:
        return self._shards[self._places[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def file_of(self, name: str) -> Path:
        """The shard of a tensor; the index if the tensor is unknown."""
        return self.path.parent / self._places[name] if name in self._places else self.path

    @cached_property
    def digest(self) -> str:
        """Digest of the shards' digests."""
        return digest([shard.digest for shard in self._shards.values()])


def read(path: Path | str) -> Reader:
    """Read a checkpoint file, or a folder with one model in the hub's layout.

    Raises:
        UserError: it is missing, damaged, of an unknown format, or a pickle with more than tensors.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = existing_weights_file(path)
            _warn_of_shards(path)
        if not path.is_file():
            raise UserError(f"{path}: no such checkpoint file")
        check_content(path)
    except OSError as error:
        raise UserError(f"{path}: {explain(error)}") from error
    if path.name.endswith(".index.json"):
        return Shards(path)
    if path.name.endswith(SUFFIXES):
        if is_safetensors(path):
            return Safetensors(path)
        if path.suffix == ".safetensors":
            raise UserError(
                f"{path}: a file of torch.save, not of safetensors; rename it to {path.with_suffix('.bin').name}"
            )
        return Reader(path, _unpickled(path))
    raise UserError(f"{path}: not a checkpoint; expected one of {', '.join(SUFFIXES)}")


def _warn_of_shards(path: Path) -> None:
    """Log the shards that a folder holds beside a single file with its weights: one of the two is older."""
    index = path.with_name(f"{path.name}.index.json")
    if index.is_file() and (shards := sorted(path.parent.glob(f"{path.stem}-*-of-*{path.suffix}"))):
        log.warning(
            "%s is taken, and its folder also holds %s and %s; remove what is older, or give the file that you mean",
            *(path, index.name, shards[0].name),
        )


def _beside(place: object) -> bool:
    """Whether an entry of an index names a weights file in or below the index's folder."""
    if not isinstance(place, str) or "\0" in place or "\\" in place:
        return False
    parts = PurePosixPath(place)
    return parts.suffix in SUFFIXES and not parts.is_absolute() and ".." not in parts.parts


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    try:
        zipped = is_archive(path)
    except OSError as error:
        raise UserError(f"{path}: {explain(error)}") from error
    if zipped and not zipfile.is_zipfile(path):
        raise UserError(f"{path}: the file is truncated; remove it, then download or copy it again")
    try:
        if zipped:
            check_records(path)
        # Only the zip format can be memory-mapped; older files are read whole.
        with safe_globals([Namespace]):  # a trainer's arguments: attributes without code
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        check_sizes(found, path)
    except (pickle.UnpicklingError, TypeError) as error:  # TypeError: a call of what is no function of tensors
        kind = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        raise UserError(
            f"{path}: holds more than tensors (a pickled {kind[1] if kind else 'object'}), which could run code, or is "
            "damaged; save the model's state_dict() and give that"
        ) from error
    except Exception as error:
        raise _damaged(path, error) from error
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: expected a state dict (names to tensors); save the model's state_dict()")
    found = state_dict_of(found, path)
    return {name: tensor.detach() for name, tensor in as_weights(dict(found), str(path)).items()}


def _damaged(path: Path, error: Exception) -> UserError:
    if (system := cause(error)) is not None:  # the file may be intact
        return UserError(f"{path}: {explain(system)}")
    lines = str(error).splitlines() or [type(error).__name__]
    reason = "" if isinstance(error, KeyError) else f" ({lines[0]})"  # the text of a KeyError is only the key
    return UserError(f"{path}: truncated or damaged{reason}; remove it, then download or copy it again")


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file; in the hub's cache it is the name of a large file."""
    name = path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", name):
        return name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
