"""Keys of cells and the index of finished ones: a sweep does not run a finished cell again."""

import json
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tsv_exp import versions
from tsv_exp.storage.digests import digest
from tsv_exp.storage.files import atomic
from tsv_exp.storage.named import files_digest, module_digests, texts
from tsv_exp.tasks.definitions import selected

INDEX = ".cells"  # in the outputs folder: a file per cell, with the folder of its last run
LAYOUT = 3  # of a run folder: a cell with an older layout, which holds less, runs again
IRRELEVANT = (
    "paths",
    "tracking",
    "resume",
    "task",
)  # for the results of a run; `task` is in the definitions of the tasks
HUB = re.compile(r"([\w.-]+)/([\w.*-]+)(@[\w./-]+)?")


def cell_key(cfg: DictConfig) -> str:
    """Digest of everything that determines a run: configuration, weights and data, program.

    Local weights and data are identified by path, size and modification time; those on the hub by their name, with
    their `commits` stored beside the key. The program is identified by the constants in versions.py, the source of each
    module of the user's that the configuration names, and the versions of the dependencies.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    kept = {name: value for name, value in plain.items() if name not in IRRELEVANT}
    for group in ("inputs", "router"):  # without one, the key is that of a cell from before these groups
        if not kept.get(group):
            kept.pop(group, None)
    kept["tasks"] = selected(plain)
    named = [[task.get("data"), task.get("checkpoint")] for _, task in kept["tasks"]]
    values = [kept.get("model"), kept.get("method"), kept.get("alpha"), named]
    files = [_identity(text) for text in sorted(set(texts(values)))]
    return digest(LAYOUT, kept, files, module_digests(values), versions.program())


def commits(cfg: DictConfig) -> dict[str, str]:
    """Branch of a model on the hub -> its commit, for everything in the local cache that the configuration may name.

    The commits are not part of the key: checkpoints that other tasks download later do not make a run another cell.
    """
    plain: Any = OmegaConf.to_container(cfg.model, resolve=True)
    names = [found for text in sorted(set(texts(plain))) if (found := HUB.fullmatch(text)) and not Path(text).exists()]
    places = [place for name in names for place in _cached().glob(f"models--{name[1]}--{name[2]}/refs/**/*")]
    return {str(place.relative_to(_cached())): _commit(place) for place in sorted(places) if place.is_file()}


def find(key: str, outputs: Path) -> tuple[Path, dict[str, Any]] | None:
    """The folder and the results of a finished run of this cell, or None."""
    outputs = outputs.resolve()
    try:
        folder = outputs / (outputs / INDEX / key).read_text(encoding="utf-8")
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never run, or its folder is gone or damaged
        return None
    known = isinstance(results, dict) and results.get("cell") == key and results.get("status") == "ok"
    if not known or not all(Path(file).exists() for file in results.get("saved", ())):
        return None
    same = all(_commit(_cached() / name) == commit for name, commit in results.get("commits", {}).items())
    return (folder, results) if same else None


def remember(key: str, outputs: Path, folder: Path) -> None:
    """Record the finished run in `folder` as this cell; the path is relative, so a copy of `outputs` stays valid."""
    outputs, folder = outputs.resolve(), folder.resolve()
    place = folder.relative_to(outputs) if folder.is_relative_to(outputs) else folder
    with atomic(outputs / INDEX / key) as temporary:
        temporary.write_text(str(place), encoding="utf-8")


def _identity(text: str) -> str:
    """Digest of the files that a value of the configuration names, if any."""
    path = Path(text).expanduser()
    return files_digest(path.resolve()) if text and path.exists() else ""


def _cached() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _commit(place: Path) -> str:
    return place.read_text(encoding="utf-8") if place.is_file() else ""
