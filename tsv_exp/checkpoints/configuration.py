"""The configuration files of a merged model: the base's, adapted to the result."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsv_exp.checkpoints.folders import holds_model
from tsv_exp.checkpoints.readers import CONFIGURATION
from tsv_exp.checkpoints.vocabulary.tokenizers import FILES
from tsv_exp.errors import UserError
from tsv_exp.merging.inputs.alignment import matches
from tsv_exp.storage.files import atomic
from tsv_exp.storage.json_files import read_object, values_of

log = logging.getLogger(__name__)

_COPIED = (*CONFIGURATION, "*.py", "LICENSE*", "NOTICE*")
PROVENANCE = "tsv_merge.json"  # record of the origin of a merged model
_OF_WEIGHTS = ("*.index.json", "adapter_config.json", "merged.json", "trainer_state.json", PROVENANCE)
_OTHER_FOLDERS = (
    ".*",
    "checkpoint-*",
    "global_step*",
    "runs",
    "wandb",
    "__pycache__",
)  # files of the training run, not of the model
_OF_TOKENIZER = (*FILES, "generation_config.json")
_TIED = "tie_word_embeddings"  # key of transformers' config.json
_DTYPES = ("dtype", "torch_dtype")  # keys of transformers' config.json, 5 and before


@dataclass(frozen=True)
class Configuration:
    """The configuration files of a folder and its subfolders (poolings, chat templates), and the changes to them.

    Args:
        folder: the base's folder.
        dtype: dtype of the merged weights, written to config.json; None leaves config.json unchanged.
        values: new values of other keys that config.json has.
        replaced: file name -> content that replaces the folder's file.
        tokenizer: folder of the model whose tokenizer, chat template and generation settings replace the base's.
        beside: subfolders that are separate models with their own configuration.
    """

    folder: Path
    dtype: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    replaced: Mapping[str, bytes] = field(default_factory=dict)
    tokenizer: Path | None = None
    beside: tuple[str, ...] = ()

    def untied(self, base: Mapping[str, Tensor], merged: Callable[[str], Tensor]) -> "Configuration":
        """Without tied embeddings if input and output embedding are equal in the base and not in the merge.

        A model that is loaded with tied embeddings would lose the merged output embedding.
        """
        config = _read(self.folder / "config.json")
        sizes = [*values_of(config, "vocab_size"), self.values.get("vocab_size")]
        if False in values_of(config, _TIED):
            return self
        matrices = [name for name, weight in base.items() if weight.dim() == 2 and len(weight) in sizes]
        for a, b in combinations(matrices, 2):
            if torch.equal(base[a], base[b]) and not torch.equal(merged(a), merged(b)):
                log.warning(
                    "%s and %s are equal in the base, not in the merge; config.json gets %s: false", a, b, _TIED
                )
                return replace(self, values={**self.values, _TIED: False})
        return self

    def check(self) -> None:
        """Raise a UserError if config.json must be changed and is damaged."""
        if (self.dtype or self.values) and (file := self.folder / "config.json").is_file():
            self._config(file)

    def _config(self, file: Path) -> dict[str, Any]:
        try:
            return read_object(file)
        except ValueError as error:
            raise UserError(f"{file}: {error}; correct it, or leave dtype and vocabulary out") from error

    def write(self, out: Path) -> None:
        """Write the files into a folder.

        Raises:
            UserError: a file cannot be written, or config.json must be changed but is damaged.
        """
        for file in _files(self.folder, out):
            own = file.parts[0] not in self.beside
            if own and (self.tokenizer is None or not matches(file.name, _OF_TOKENIZER)):
                with atomic(out / file) as path:
                    self._copy(file, path)
        if self.tokenizer is not None:
            for file in _files(self.tokenizer, out):
                if matches(file.name, _OF_TOKENIZER):
                    with atomic(out / file) as path:
                        shutil.copyfile(self.tokenizer / file, path)
        for name, content in self.replaced.items():
            with atomic(out / name) as path:
                path.write_bytes(content)

    def _copy(self, file: Path, target: Path) -> None:
        changes = dict(self.values) | (dict.fromkeys(_DTYPES, self.dtype) if self.dtype else {})
        added = {_TIED: self.values[_TIED]} if _TIED in self.values else {}  # configurations leave defaults out
        if file != Path("config.json") or not changes:
            shutil.copyfile(self.folder / file, target)
            return
        config = self._config(self.folder / file)
        changed = _changed(config, changes, next(iter(values_of(config, "vocab_size")), None)) | added
        target.write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _files(folder: Path, out: Path) -> Iterator[Path]:
    """The configuration files of the model in a folder, relative to it; subfolders may hold other models."""
    found = sorted(folder.rglob("*"))
    others = {path for path in found if matches(path.name, _OTHER_FOLDERS) or (path.is_dir() and holds_model(path))}
    for file in found:
        if others.intersection(file.parents) or not file.is_file() or file.resolve().is_relative_to(out.resolve()):
            continue
        if matches(file.name, _COPIED) and not matches(file.name, _OF_WEIGHTS):
            yield file.relative_to(folder)


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_object(file)
    except (OSError, ValueError):  # none, or of another library
        return {}


def _changed(config: Any, values: Mapping[str, Any], size: int | None) -> Any:
    """A configuration with new values for the keys that it has, including nested ones.

    A vocabulary of another size than `size` is that of another part (the Q-former of InstructBLIP).
    """
    if not isinstance(config, dict):
        return config
    known = [key for key in values if config.get(key) is not None and (key != "vocab_size" or config[key] == size)]
    return {key: _changed(value, values, size) for key, value in config.items()} | {key: values[key] for key in known}
