"""What a user names as weights: a file, a folder, a repository on the hub, or an adapter on a base."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tsv_exp.checkpoints import downloads, hub
from tsv_exp.checkpoints.adapters import Adapter
from tsv_exp.checkpoints.readers import CONFIGURATION, Reader, read
from tsv_exp.errors import UserError

HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def open_weights(source: str | Path, base: Mapping[str, Tensor] | None = None) -> Reader | Adapter:
    """The weights of a file, a folder, a hub id, or a LoRA adapter on `base`.

    Raises:
        UserError: there is no such thing, it is damaged, or it is an adapter and there is no base.
    """
    path = locate(source)
    if path.is_dir() and (path / "adapter_config.json").is_file():
        files = [path / name for name in ADAPTER_FILES if (path / name).is_file()]
        if base is None:
            raise UserError(f"{path} is an adapter, not a model; give the model that it belongs to as base")
        if not files:
            raise UserError(f"{path} has an adapter_config.json and no {ADAPTER_FILES[0]}; fetch it again")
        return Adapter(path, read(files[0]), base)
    return read(path)


def folder_of(path: Path) -> Path | None:
    """The folder that is one model: the path itself, or that of an index of shards; None of a file by itself."""
    if path.is_dir():
        return path
    return path.parent if path.name.endswith(".index.json") else None


def locate(source: str | Path) -> Path:
    """The path of a source; a hub id (owner/name[@revision]) is downloaded into the hub's cache first."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    match = HUB_ID.fullmatch(str(source))
    if not match or path.suffix:
        raise UserError(f"{source}: there is no such file or folder, and it is not a hub id such as owner/name")
    repo, revision = match["repo"], match["revision"]
    with hub.failures(f"model {source}"):
        folder = downloads.model(repo, revision, "*.safetensors", CONFIGURATION)
        if not any(folder.glob("*.safetensors")):
            folder = downloads.model(repo, revision, "*.bin", CONFIGURATION)
    return folder
