"""Folders with several models: diffusers pipelines, and sentence-transformers with additional layers."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tsv_exp.checkpoints.folders import is_weights, weights_file
from tsv_exp.checkpoints.readers import CONFIGURATION, read
from tsv_exp.checkpoints.sources import adapter_file, local, locate, open_weights
from tsv_exp.errors import UserError
from tsv_exp.merge_files.inputs import own_names, weight_files
from tsv_exp.merge_files.options.options import DTYPES, Options
from tsv_exp.merge_files.options.rules import check_patterns
from tsv_exp.merging.layer import Weights
from tsv_exp.storage.files import atomic
from tsv_exp.storage.known_digests import known_digests

log = logging.getLogger(__name__)

_INDEXES = ("model_index.json", "modules.json")  # index files of diffusers and sentence-transformers
ROOT = "."  # the component whose files are in the folder itself


@dataclass(frozen=True)
class Components:
    """The components to merge, each with its options, and the parts of the base that are copied unchanged."""

    merged: Mapping[str, Options]
    copied: tuple[str, ...] = ()
    base: Path | None = field(default=None)


def components(options: Options) -> Components:
    """The components of the base's folder that some model changes; a model without components is merged whole.

    Raises:
        UserError: a model lacks a component that another has, has one that the base lacks, or no component differs.
    """
    base = None
    if options.base is not None:  # a merge of adapters only names its base, so it is not downloaded for that
        base = local(options.base) if options.form == "lora" else locate(options.base)
    if base is None or not any((base / index).is_file() for index in _INDEXES):
        _warn_of_components(options)
        return Components({ROOT: options})
    names = list(_names(base))
    whole = [key for key in ("vocabulary", "tokenizer", "form") if getattr(options, key) not in (None, "model")]
    if names != [ROOT] and whole:
        each = ", ".join(str(weights_file(base) if name == ROOT else base / name) for name in names)
        raise UserError(f"{whole[0]}: {base} has several components; merge them one by one: {each}")
    places = {task: locate(path) for task, path in options.models.items()}
    for task, place in places.items():
        if extra := sorted(set(_names(place)) - set(names)):
            what = "a model in the folder itself" if extra[0] == ROOT else f"a component {extra[0]!r}"
            raise UserError(f"model {task!r} ({place}) has {what}, which the base lacks; leave it out")
    if names == [ROOT]:
        return Components({ROOT: options})
    for task, place in places.items():
        if not any(_has_weights(place / name) for name in names):
            raise UserError(
                f"model {task!r} ({place}) has none of the base's components ({', '.join(names)}); give a folder like "
                f"{base}, or one component of it as base"
            )
    merged: list[str] = []
    copied: list[str] = []
    for name in names:
        having = [task for task, place in places.items() if _has_weights(place / name)]
        if having and len(having) < len(places):
            lacking = next(task for task in places if task not in having)
            raise UserError(f"model {lacking!r} ({places[lacking]}) lacks the component {name!r} that another one has")
        differs = any(_content(places[task] / name) != _content(base / name) for task in having)
        (merged if differs else copied).append(name)
    if not merged:
        raise UserError("all models are equal to the base in every component; check the paths")
    merged.sort(key=lambda name: name == ROOT)  # its folder contains the others
    beside = tuple(name for name in merged if name != ROOT)
    parts = {
        name: replace(
            options,
            base=str(base / name),
            models={task: str(place / name) for task, place in places.items()},
            out=options.out / name,
            beside=beside if name == ROOT else (),
            component=True,
        )
        for name in merged
    }
    bases = {name: read(base / name) for name in names}
    theirs = [
        own_names(open_weights(place / name, bases[name], options.keep, options.ignore))
        for place in places.values()
        for name in names
        if _has_weights(place / name)
    ]
    check_patterns(options, list(bases.values()), (name for own in theirs for name in own))
    if options.dtype:
        _warn_of_dtypes(options.dtype, {name: bases[name] for name in copied})
    _check_free(options.out, parts)
    return Components(parts, tuple(copied), base)


def _warn_of_dtypes(wanted: str, copied: Mapping[str, Weights]) -> None:
    """Log copied components whose weights have another dtype than the result is asked to have."""
    for name, weights in copied.items():
        if kept := {weight.dtype for weight in weights.values() if weight.is_floating_point()} - {DTYPES[wanted]}:
            dtypes = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in kept))
            log.warning("no model changes %s, which is copied and stays %s, not %s", name, dtypes, wanted)


def _warn_of_components(options: Options) -> None:
    """Log the components of models, such as the layers of sentence-transformers, for which the base has no place."""
    for task, path in options.models.items():
        place = local(path)
        names = [] if place is None else list(_names(place))
        if ROOT in names and len(names) > 1:
            extra = ", ".join(name for name in names if name != ROOT)
            log.warning("model %r (%s) has components that the base lacks, which are left out: %s", task, place, extra)


def copy_rest(options: Options, parts: Components) -> None:
    """Copy the components that no model changes, and the index files."""
    if parts.base is None:
        return
    for name in parts.copied:
        for file in sorted(path for path in (parts.base / name).glob("*") if path.is_file()):
            _copy(file, options.out / name / file.name)
    known = {*parts.copied, *parts.merged}
    for folder in sorted(path for path in parts.base.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if folder.name not in known:  # schedulers, tokenizers, poolings: no weights
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                if is_weights(file):  # of the base, for other programs
                    log.warning("%s is not copied: it holds weights of the base", file)
                else:
                    _copy(file, options.out / file.relative_to(parts.base))
    if ROOT not in known:
        for pattern in CONFIGURATION:
            for file in sorted(parts.base.glob(pattern)):
                _copy(file, options.out / file.name)


def _copy(source: Path, target: Path) -> None:
    with atomic(target) as path:
        shutil.copyfile(source, path)


def _names(folder: Path) -> Iterator[str]:
    """The subfolders that contain weights, and the folder itself if it does."""
    if not any((folder / index).is_file() for index in _INDEXES):
        return
    for place in [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]:
        if _has_weights(place):
            yield place.relative_to(folder).as_posix()
        elif place != folder and (
            unread := [file for file in sorted(place.glob("*model*.safetensors")) if file.is_file()]
        ):
            raise UserError(f"{unread[0]}: the name of these weights is not known; load the model and save it again")


def _has_weights(folder: Path) -> bool:
    return folder.is_dir() and (adapter_file(folder) is not None or weights_file(folder) is not None)


def _content(folder: Path) -> list[str]:
    return sorted(known_digests(weight_files(folder)).values())


def _check_free(out: Path, parts: Mapping[str, Options]) -> None:
    begun = any((part.out / ".tsv-merge").is_dir() for part in parts.values())
    if out.is_dir() and any(out.iterdir()) and not begun:
        raise UserError(f"out={out} already contains something else; remove it or choose another folder")
