"""Checks of torch.save's zip archives before they are memory-mapped."""

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SMALL = 1 << 20  # bytes
_LOCAL = struct.Struct("<4s22xHH")  # a member's local header: signature, lengths of its name and extra field
_PROGRAMS = {  # by a record that only they have
    "constants.pkl": ("TorchScript", "torch.jit.load"),
    "archive_format": ("torch.export", "torch.export.load"),
}
_ITEM_SIZES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexDouble": 16, "ComplexFloat": 8, "QInt32": 4, "QInt8": 1, "QUInt8": 1, "QUInt4x2": 1, "QUInt2x4": 1,
    "Untyped": 1,
}  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether a file has the signature of a zip archive."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def program_in(path: Path) -> tuple[str, str] | None:
    """The library that saved a program in an archive, and the function that loads it; None for other archives."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # too damaged to determine
        return None
    return next((program for record, program in _PROGRAMS.items() if record in records), None)


def check_records(path: Path) -> None:
    """Check that every storage of an archive has a record of the right size.

    PyTorch maps the file and reads as many bytes as the storage needs from the start of its record. If the record is
    shorter, the bytes that follow it in the file would be read as weights. Mapped records cannot be compressed either.

    Raises:
        ValueError: a record is missing, compressed, outside the file, or of another size than its storage.
        Exception: any error of `zipfile` and `pickle` on a damaged file.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("two records have the same name")
        content = next(name for name in [*members, ""] if name.rpartition("/")[2] == "data.pkl" or not name)
        if not content:
            raise ValueError("it has no record data.pkl")
        for key, wanted in _storages(archive.read(content)):
            member = members.get(f"{content.removesuffix('data.pkl')}data/{key}")
            if member is None or member.compress_type != zipfile.ZIP_STORED or member.file_size < wanted:
                raise ValueError(f"the record of storage {key} is missing, compressed or shorter than its tensor")
            file.seek(member.header_offset)
            mark, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
            end = member.header_offset + _LOCAL.size + name + extra + member.file_size
            if mark != b"PK\3\4" or end > size:
                raise ValueError(f"the record of storage {key} lies outside the file")


def check_sizes(content: Any, path: Path) -> None:
    """Check that no tensor is larger than its file: an expanded tensor could exhaust the memory.

    Raises:
        ValueError: one is larger, by more than 1 MiB.
    """
    limit = max(path.stat().st_size, _SMALL)
    for name, tensor in _tensors(content, ""):
        if tensor.numel() * tensor.element_size() > limit:
            raise ValueError(f"the tensor {name!r} of shape {tuple(tensor.shape)} is larger than the file")


class _Inert:
    """Replaces every class and function in a pickle: accepts all arguments and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...


class _Storages(pickle._Unpickler):  # the Python version: the C version can be made to exhaust memory
    """Reads a pickle without importing or calling anything in it; `found` are its storages' keys and sizes."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.found: list[tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, count = pid
        self.found.append((str(key), int(count) * _ITEM_SIZES[kind.__name__.removesuffix("Storage")]))
        return _Inert()


def _storages(content: bytes) -> list[tuple[str, int]]:
    unpickler = _Storages(content)
    unpickler.load()
    return unpickler.found


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """The dense tensors in nested dictionaries, with their names."""
    if isinstance(value, Tensor) and value.layout is torch.strided:
        yield name, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))
