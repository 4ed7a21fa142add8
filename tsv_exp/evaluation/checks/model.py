"""Checks of a configuration's model, method, device and places: the part of `checks` that needs torch."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hydra.utils import instantiate

from tsv_exp.arguments import check_nodes
from tsv_exp.data.tasks import local_place
from tsv_exp.errors import UserError
from tsv_exp.evaluation.checks.dry_run import dry_run
from tsv_exp.evaluation.inputs import model_of
from tsv_exp.evaluation.routing import check_router
from tsv_exp.methods.specification.method import Method
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.devices import device_of
from tsv_exp.tasks.definitions import Definition


def check(plain: Mapping[str, Any], tasks: Sequence[tuple[str, Definition]], here: bool) -> None:
    """Check model, method, device, and the places of data and checkpoints.

    Args:
        plain: the configuration as plain containers.
        tasks: name and definition of its tasks.
        here: whether the run executes on this machine, so that its devices and paths are checked too.

    Raises:
        UserError: a value is invalid.
    """
    if here:
        device_of(plain["device"])
    for group in ("model", "inputs", "router"):
        _check_group(group, json.dumps(plain[group]))
    model, method = model_of(plain), _method(json.dumps(plain["method"]))
    if model.finetune.lora is not None and model.checkpoints is not None:
        raise UserError(
            "finetune=lora: nothing is trained if model.checkpoints is set; leave one of the two out, "
            "or train checkpoints with tsv-finetune finetune=lora"
        )
    if method.needs_moments and not plain["inputs"]:
        raise UserError(f"method {method.name} needs inputs; give inputs=validation, noise or other_tasks")
    if plain["inputs"]:
        instantiate(plain["inputs"])
    per_task = _dry_run(json.dumps(plain["method"]), len(tasks))
    if plain["router"]:
        metrics = {name: str(definition.get("metric") or "accuracy") for name, definition in tasks}
        check_router(instantiate(plain["router"]), per_task, method.name, metrics)
    if here:
        check_paths(model, tasks)


@cache
def _check_group(group: str, node: str) -> None:
    """`check_nodes` once for all jobs of a sweep that have the same."""
    check_nodes(group, json.loads(node))


@cache
def _method(node: str) -> Method:
    """The method of a configuration, once for all jobs of a sweep that differ elsewhere."""
    return Method.from_config(json.loads(node))


@cache
def _dry_run(method: str, tasks: int) -> bool:
    """`dry_run` likewise."""
    return dry_run(_method(method), tasks)


def check_paths(model: Model, tasks: Sequence[tuple[str, Definition]]) -> None:
    """Check that local data, base weights and checkpoints exist.

    Raises:
        UserError: a folder or a file is not there.
    """
    for name, definition in tasks:
        if definition["data"].get("path"):
            local_place(name, definition["data"])
    model.check_base()
    if any(not definition.get("checkpoint") for _, definition in tasks):
        model.check_checkpoints()
