"""A fitted router on disk: router.json describes it, router.safetensors has its statistics."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from tsv_exp.arguments import check_arguments
from tsv_exp.checkpoints.readers import file_digest, read
from tsv_exp.errors import UserError
from tsv_exp.merging.layer import finite
from tsv_exp.routing.likelihood import Likelihood
from tsv_exp.routing.mass import Mass
from tsv_exp.routing.router import FittedRouter, Router
from tsv_exp.storage.files import atomic
from tsv_exp.storage.json_files import read_object
from tsv_exp.storage.tensor_files import save

ROUTERS: dict[str, type[Router]] = {router.name: router for router in (Likelihood, Mass)}
DESCRIPTION, TENSORS = "router.json", "router.safetensors"
VERSION = 1  # of the format


def router_of(name: str, parameters: Mapping[str, Any]) -> Router:
    """The router of a name in conf/router, with other values of its parameters.

    Raises:
        UserError: unknown name or parameter, or a value outside its domain.
    """
    if name not in ROUTERS:
        raise UserError(f"router={name}: choose from: {', '.join(ROUTERS)}")
    check_arguments(f"router={name}: ", ROUTERS[name], parameters)
    return ROUTERS[name](**parameters)


def write_router(folder: Path, fitted: FittedRouter) -> None:
    """Write both files; the description last, so that it never names what is not there.

    Raises:
        UserError: the folder is not writable, or the disk is full.
    """
    with atomic(folder / TENSORS) as path:
        tensors = {f"{name}/{key}": t for name, parts in fitted.layers.items() for key, t in parts.items()}
        save(path, tensors)
    description = {
        "version": VERSION,
        "router": fitted.router.name,
        "parameters": parameters_of(fitted.router),
        "tasks": list(fitted.tasks),
        "layers": list(fitted.layers),
        "files": {TENSORS: file_digest(folder / TENSORS)},
    }
    with atomic(folder / DESCRIPTION) as path:
        path.write_text(json.dumps(description, indent=1), encoding="utf-8")


def read_router(folder: Path) -> FittedRouter:
    """Read both files, and check that they belong together.

    Raises:
        UserError: there is no router, or one that another version wrote, or a file has changed.
    """
    if not (folder / DESCRIPTION).is_file():
        raise UserError(f"{folder} holds no router; tsv-merge method=tsv_c router=likelihood writes one")
    try:
        found = read_object(folder / DESCRIPTION)
        if found["version"] != VERSION:
            raise UserError(f"{folder / DESCRIPTION} has version {found['version']!r}, not {VERSION}; merge again")
        router = router_of(str(found["router"]), dict(found["parameters"]))
        tasks, layers = _names(found, "tasks"), _names(found, "layers")
        wanted = found["files"][TENSORS]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder / DESCRIPTION} cannot be read ({reason}); merge again") from error
    if not (folder / TENSORS).is_file() or file_digest(folder / TENSORS) != wanted:
        raise UserError(f"{folder / TENSORS} is not the file that {DESCRIPTION} was written with; merge again")
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in layers}
    for key, tensor in read(folder / TENSORS).items():
        name, _, part = key.rpartition("/")
        if name not in parts or not tensor.is_floating_point() or not (part == "logdet" or finite(tensor)):
            raise UserError(f"{folder / TENSORS}: the tensor {key!r} is not part of a router; merge again")
        parts[name][part] = tensor.clone()
    return FittedRouter(router, tasks, parts)


def parameters_of(router: Router) -> dict[str, Any]:
    """The parameters of a router as plain values; those that it derives from others are left out."""
    own: Any = router
    values = {field.name: getattr(own, field.name) for field in fields(own) if field.init}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _names(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = content[key]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key} is not a list of names")
    return tuple(names)
