"""The options of tsv-merge: parses and checks words such as base=PATH."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import exists  # False also for names that the system refuses
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tsv_exp.errors import UserError, did_you_mean
from tsv_exp.merge_files.options.paths import is_text, named, paths, text
from tsv_exp.merge_files.options.values import (
    ALL,
    CHOICES,
    NUMBERS,
    PATTERNS,
    SWITCHES,
    TEXTS,
    check_layers,
    check_weights,
    is_number,
)
from tsv_exp.routing.router import Router
from tsv_exp.routing.serving.files import router_of

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in CHOICES["dtype"]}
_ROUTER_PARAMETERS = "router_parameters"  # key of those that are typed as router.epsilon=0.3
_DOTTED = "router.", f"{_ROUTER_PARAMETERS}."


@dataclass
class Options:
    """The options; unknown names are parameters of the method.

    `router` chooses the task of an input, for methods with a model per task. `component` is true for one of several
    models in a folder, where patterns may belong to another component; `beside` names the other components in its
    folder.
    """

    base: str | None
    models: dict[str, str]
    out: Path
    method: str = "tsv_m"
    alpha: float | None = None
    task: str | None = None
    dtype: str | None = None
    shard_mb: float = 512
    svd: str = "auto"
    exclude: list[str] | None = None
    stacks: list[str] | None = None
    keep: list[str] = field(default_factory=list)
    ignore: list[str] = field(default_factory=list)
    device: str | None = None
    wait: bool = True
    vocabulary: str | None = None
    tokenizer: str | None = None
    form: str = "model"
    rank: int | None = None
    push: str | None = None
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    search: tuple[Path, ...] = ()
    command: str = ""
    router: Router | None = None
    component: bool = False
    beside: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)


def parse(arguments: Sequence[str], preset: Mapping[str, Any] | None = None) -> Options:
    """Parse words such as base=PATH, which override those of `preset`; null is the default.

    Raises:
        UserError: a word is not of that form, base, models or out is missing, or a value does not fit.
    """
    given = dict(preset or {}) | _read(arguments)
    layers, weights = check_layers(given.pop("layers", None)), check_weights(given.pop("weights", None))
    for name in ("base", "models", "out"):
        if not given.get(name) and not (name == "base" and given.get("form") == "lora"):
            typed = next(
                (f" ({key}= is no option)" for key in given if key not in ALL and did_you_mean(key, [name])), ""
            )
            raise UserError(f"{name} is missing{typed}; tsv-merge base=PATH 'models=[PATH,PATH]' out=FOLDER")
    models = given.pop("models")
    if not isinstance(models, Mapping):
        models = named(models)
    known = {
        name: value for name in (*TEXTS, *NUMBERS, *SWITCHES, *PATTERNS) if (value := given.pop(name, None)) is not None
    }
    for name in NUMBERS:
        if name in known and not is_number(known[name]):
            raise UserError(f"{name}={known[name]}: give a finite number")
    for name in SWITCHES:
        if not isinstance(known.get(name, True), bool):
            raise UserError(f"{name}={known[name]}: give true or false")
    if known.get("shard_mb", 1) <= 0:
        raise UserError(f"shard_mb={known['shard_mb']}: give a size above 0")
    for name, values in CHOICES.items():
        if name in known and name not in SWITCHES and known[name] not in values:
            raise UserError(f"{name}={known[name]}: choose from: {', '.join(values)}")
    if known.get("tokenizer", "base") not in ("base", *models):
        raise UserError(f"tokenizer={known['tokenizer']}: choose from: base, {', '.join(models)}")
    if known.get("tokenizer") == "base":  # the default
        del known["tokenizer"]
    if "rank" in known and (known["rank"] != int(known["rank"]) or known["rank"] < 1):
        raise UserError(f"rank={known['rank']}: give a whole number above 0")
    if known.get("form") != "lora" and any("rank" in rule for rule in (known, *layers.values())):
        raise UserError(
            "rank= is the rank of an adapter; give form=lora too, or rank_fraction= for the components of a method"
        )
    for name in PATTERNS:
        if name in known:
            known[name] = _patterns(name, known[name])
    parameters = given.pop(_ROUTER_PARAMETERS, None) or {}
    if parameters and "router" not in known:
        raise UserError(f"router.{next(iter(parameters))}: give router=likelihood too")
    if "router" in known:
        known["router"] = _router(known["router"], parameters)
    known.setdefault("base", None)
    return Options(
        **known | {"out": _folder(known["out"])}, models=dict(models), layers=layers, weights=weights, params=given
    )


def _folder(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # ~name of nobody
        raise UserError(f"out={name}: {error}") from error


def _router(name: str, parameters: Any) -> Router | None:
    if not isinstance(parameters, Mapping):
        raise UserError(f"{_ROUTER_PARAMETERS}={parameters}: give names and values, as in {{epsilon: 0.3}}")
    if name == "none":
        return None
    router = router_of(name, parameters)
    if router.undecided:
        raise UserError(f"router={name}: without data no layer can be chosen; give router.layer=NAME")
    return router


def _read(arguments: Sequence[str]) -> dict[str, Any]:
    config = OmegaConf.create()
    texts: dict[str, Any] = {}
    for word in arguments:
        if not is_text(word):
            raise UserError(f"{word!r}: it is not valid UTF-8; rename the file or folder")
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word!r}: give options as name=value; tsv-merge --help lists them")
        if name in TEXTS:
            texts[name] = text(value)
            continue
        if name == "models":
            several = paths(value)
            if name in texts:
                raise UserError(f"{word}: models is given twice; give all of them as one list: 'models=[PATH,PATH]'")
            texts[name] = several
            if value[:1] not in "[{'\"" and "," in value and not exists(value):
                raise UserError(f"{word}: there is no such path; give several in brackets: 'models=[{value}]'")
            continue
        if name.startswith("layers."):  # names of layers contain dots
            raise UserError(f"{word}: give all rules as one value, as in \"layers={{'*.mlp.*': {{alpha: 0.5}}}}\"")
        try:
            config.merge_with_dotlist([word.replace(*_DOTTED, 1) if word.startswith("router.") else word])
        except (OmegaConfBaseException, ValueError, YAMLError, RecursionError) as error:
            remedy = "put quotes around the value inside the shell's, as in \"exclude='*emb*'\""
            raise UserError(f"cannot read {word} ({str(error).splitlines()[0]}); {remedy}") from error
    given: Any = OmegaConf.to_container(config)
    return dict(given) | texts


def _patterns(name: str, value: Any) -> list[str]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UserError(f"{name}={value}: give patterns of names, as in \"{name}=['*emb*', 'head.*']\"")
    return patterns
