"""Opens the weights that a user names: a file, a folder, a hub repository, or an adapter on a base."""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from tsv_exp.checkpoints.adapters.lora import Adapter
from tsv_exp.checkpoints.adapters.lora_config import FILE
from tsv_exp.checkpoints.checks.factors import refuse_factors
from tsv_exp.checkpoints.checks.quantization import refuse_codes, refuse_configured
from tsv_exp.checkpoints.folders import ADAPTER_FILES, is_shard, weights_file
from tsv_exp.checkpoints.formats import SUFFIXES
from tsv_exp.checkpoints.hub import downloads
from tsv_exp.checkpoints.hub import failures as hub
from tsv_exp.checkpoints.loaded_names import with_names_of
from tsv_exp.checkpoints.readers import CONFIGURATION, Reader, read
from tsv_exp.errors import UserError
from tsv_exp.runtime.messages.os_errors import explain

REPOSITORY = r"(?P<repo>\w[\w.-]*/\w[\w.-]*)"  # ./folder and ../folder are paths
HUB_FILE = re.compile(REPOSITORY + r"@(?P<revision>[\w.-]+)/(?P<file>[\w./-]+)")
HUB_ID = re.compile(REPOSITORY + r"(@(?P<revision>[\w./-]+))?")
_MLX = "adapters.safetensors"
PACKAGE = "pkg://"  # pkg://package/folder: files that an installed Python package carries


def open_weights(
    source: str | Path,
    base: Mapping[str, Tensor] | None = None,
    keep: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Reader | Adapter:
    """The weights of a file, a folder, a hub id, or a LoRA adapter on `base`.

    Args:
        source: where they are.
        base: the weights that an adapter changes.
        keep: patterns of the base's names that an adapter leaves as they are.
        ignore: patterns of an adapter's names that are left out.

    Raises:
        UserError: it does not exist, is damaged, or is an adapter without a base.
    """
    path = locate(source)
    file = adapter_file(path)
    if file is None:
        if base is not None and is_shard(path) and not is_shard(Path(getattr(base, "path", None) or "")):
            raise UserError(
                f"{path} holds a part of a model; give its folder, {path.parent}, or the index of its parts"
            )
        folder = folder_of(path)
        refuse_configured(folder)
        weights = read(path)
        refuse_codes(weights, folder)
        if base is not None:
            refuse_factors(weights, base)
        return weights
    if base is None:
        raise _no_model(path)
    return Adapter(file.parent, read(file), base, keep, ignore)


def open_models(
    sources: Mapping[str, str | Path],
    base: Mapping[str, Tensor],
    keep: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> dict[str, Mapping[str, Tensor]]:
    """The weights of the models of a base by task, under its names, where one side has those in memory.

    Raises:
        UserError: as `open_weights`, or as `with_names_of`.
    """
    return {
        task: with_names_of(base, open_weights(source, base, keep, ignore), f"model {task!r}")
        for task, source in sources.items()
    }


def stored(source: str) -> Reader | None:
    """The weights of a model on this machine, which may be quantized; None for a hub id.

    Raises:
        UserError: there is no such path, it holds no weights, or it is an adapter.
    """
    path = local(source)
    if path is not None and adapter_file(path) is not None:
        raise _no_model(path)
    return None if path is None else read(path)


def _no_model(path: Path) -> UserError:
    return UserError(f"{path} is an adapter, not a model; give the model that it belongs to as base")


def adapter_file(path: Path) -> Path | None:
    """The adapter file of a path, or None if the path is a model."""
    if path.name in ADAPTER_FILES and (path.parent / FILE).is_file():
        return path
    if not path.is_dir() or not (path / FILE).is_file():
        return None
    files = [path / name for name in ADAPTER_FILES if (path / name).is_file()]
    model = weights_file(path)
    if files and model:
        raise UserError(f"{path} holds a model and an adapter; give the path of one of them: {model} or {files[0]}")
    if not files and not model:
        if (path / _MLX).is_file():
            raise UserError(f"{path} is an adapter of MLX; merge it into its model (mlx_lm.fuse), and give that")
        raise UserError(f"{path} has an {FILE} and no {ADAPTER_FILES[0]}; fetch it again")
    return files[0] if files else None  # a model next to a leftover adapter configuration


def folder_of(path: Path) -> Path | None:
    """The folder of one model: the path itself, or the folder of an index of shards; None for a single file."""
    if path.is_dir():
        return path
    return path.parent if path.name.endswith(".index.json") else None


def locate(source: str | Path) -> Path:
    """The path of a source: local, in a package (pkg://...), or downloaded from the hub (owner/name[@revision])."""
    path = local(source)
    if path is not None:
        return path
    if found := HUB_FILE.fullmatch(str(source)):
        with hub.failures(f"model {source}"):
            return downloads.file(found["repo"], found["revision"], found["file"])
    match = HUB_ID.fullmatch(str(source))
    assert match  # what `local` accepts
    repo, revision = match["repo"], match["revision"]
    owner, _, name = repo.partition("/")
    here = f" (the folder {owner} here has no {name})" if Path(owner).is_dir() else ""
    with hub.failures(f"model {source}{here}"):
        folder = downloads.model(repo, revision, "*.safetensors", CONFIGURATION)
        if not any(folder.glob("*.safetensors")):
            folder = downloads.model(repo, revision, "*.bin", CONFIGURATION)
    return folder


def local(source: str | Path) -> Path | None:
    """The path of a source on this machine, or None if it is one of the hub's; nothing is downloaded.

    Raises:
        UserError: it is neither.
    """
    try:
        path = Path(source).expanduser()
        if path.exists():
            return _snapshot(path) or path
    except (OSError, RuntimeError, ValueError) as error:  # name too long, unknown user, null character
        reason = explain(error) if isinstance(error, OSError) else error
        raise UserError(f"{source}: {reason}") from error
    text = str(source)
    if text.startswith(PACKAGE):
        return _in_package(text)
    if not HUB_FILE.fullmatch(text) and (not HUB_ID.fullmatch(text) or path.name.endswith(SUFFIXES)):
        raise UserError(f"{source}: there is no such file or folder, and it is not a hub id such as owner/name")
    return None


def _snapshot(path: Path) -> Path | None:
    """The files of a repository in the hub's cache (models--owner--name), of its default branch."""
    main = path / "refs" / "main"
    return path / "snapshots" / main.read_text().strip() if main.is_file() else None


def _in_package(source: str) -> Path:
    """A path inside an installed package; runs none of its code."""
    package, _, inside = source.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder, inside)).exists():
            return path
    raise UserError(f"{source}: no installed package {package!r} has it; install the package that carries these files")
