"""Reads configuration files of tsv-merge: its options as YAML, with rules for layers and weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tsv_exp.errors import UserError
from tsv_exp.merge_files.options import mergekit
from tsv_exp.merge_files.options.values import TEXTS


def read_config(path: Path) -> dict[str, Any]:
    """Read the options in a file, in the form that `options.parse` expects.

    Raises:
        UserError: it does not exist, is not YAML, or contains something that tsv-merge does not support.
    """
    try:
        content = path.read_text(encoding="utf-8")
        _refuse_duplicates(yaml.compose(content, yaml.SafeLoader), path)
        given, texts = yaml.safe_load(content), yaml.load(content, yaml.BaseLoader)
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply, or contains itself") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: is not YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise UserError(f"{path}: give options as name: value, one a line")
    if "merge_method" in given:
        return mergekit.translate(given, texts, str(path))
    found = given | {key: texts[key] for key in TEXTS if given.get(key) is not None}
    if odd := next((key for key in TEXTS if not isinstance(found.get(key, ""), str | None)), None):
        raise UserError(f"{path}: {odd}: give one text, not a {type(found[odd]).__name__}")
    if isinstance(given.get("weights"), dict):  # whose names are text
        found["weights"] = dict(zip(texts["weights"], given["weights"].values(), strict=True))
    if given.get("models") is not None:
        models, weights = _models(texts["models"], str(path))
        found |= {"models": models}
        if weights:
            own = found.get("weights") or {}
            if twice := [task for task in weights if task in own]:
                raise UserError(f"{path}: model {twice[0]!r} has a weight in models and in weights; leave one of them")
            found |= {"weights": weights | own}
    return found


def _refuse_duplicates(node: yaml.Node | None, path: Path) -> None:
    """Raise a UserError if a mapping has a key twice, of which YAML would take the last."""
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if key.value in keys:
                raise UserError(
                    f"{path}, line {key.start_mark.line + 1}: {key.value!r} is there twice; leave one of them"
                )
            keys.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
            _refuse_duplicates(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(value, path)


def _models(given: Any, where: str) -> tuple[Any, dict[str, float]]:
    """Paths by task (or a list of paths), and the weights of models that have one."""
    if not isinstance(given, (Mapping, list)):
        return [given], {}
    if isinstance(given, list) and all(isinstance(entry, str) for entry in given):
        return given, {}
    if isinstance(given, list):
        raise UserError(
            f"{where}: models: name the models that have weights, as in 'math: {{path: PATH, weight: 0.3}}'"
        )
    paths, weights = {}, {}
    for task, entry in given.items():
        if isinstance(entry, str):
            paths[task] = entry
            continue
        if not isinstance(entry, Mapping) or "path" not in entry or not set(entry) <= {"path", "weight"}:
            raise UserError(f"{where}: models: {task}: give path and weight, as in {{path: PATH, weight: 0.3}}")
        paths[task] = entry["path"]
        if "weight" in entry:
            weights[task] = _number(entry["weight"], f"{where}: models: {task}: weight")
    return paths, weights


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{what}={text}: give a finite number")
    return value
