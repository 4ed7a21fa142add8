"""What W&B's offline mode wrote, read back."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records(folder: Path) -> list[Any]:
    """The records of the one run in `folder`: a LevelDB log (blocks of 32 KiB, headers of 7 bytes) of messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 10  # on a busy machine the service writes the last of them after finish() has returned
    while True:
        found = [Record.FromString(content) for content in _log(path.read_bytes())]
        if any(record.HasField("exit") for record in found) or time.monotonic() > until:
            return found
        time.sleep(0.05)


def _log(data: bytes) -> Iterator[bytes]:
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield parts
            parts = b""


def items(entries: Any) -> dict[str, Any]:
    """History, summary or config items as a plain mapping."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in entries}


def summary(written: list[Any]) -> dict[str, Any]:
    """The summary of a run's records."""
    found: dict[str, Any] = {}
    for record in written:
        found |= items(record.summary.update) | items(record.run.summary.update)
    return found


def config(written: list[Any]) -> dict[str, Any]:
    """The configuration of a run's records."""
    found: dict[str, Any] = {}
    for record in written:
        found |= items(record.run.config.update) | items(record.config.update)
    return found


def history(written: list[Any]) -> list[dict[str, Any]]:
    """The steps of a run's records."""
    return [items(record.history.item) for record in written if record.HasField("history")]
