"""Checks that adapters belong to one base: by its name, by the names and shapes in its file, or by each other's."""

import logging
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from tsv_exp.checkpoints.adapters.attention import weight_of
from tsv_exp.checkpoints.adapters.factors import Adapter
from tsv_exp.checkpoints.adapters.lora_config import base_of
from tsv_exp.checkpoints.loaded_names import match_loaded
from tsv_exp.checkpoints.sources import HUB_ID
from tsv_exp.errors import UserError
from tsv_exp.merging.layer import Weights

log = logging.getLogger(__name__)

_NUMBERS = re.compile(r"\.\d+(?=\.)")  # of layers


def warn_of_other_bases(adapters: Mapping[str, Path], base: str | None) -> None:
    """Log a base on the hub that an adapter names and another, or the user, does not. Paths of folders tell nothing.

    Args:
        adapters: the adapters' folders by task.
        base: the base as typed.
    """
    named = {"base": base or ""} | {f"model {task!r}": base_of(folder) for task, folder in adapters.items()}
    on_hub = {what: name for what, name in named.items() if HUB_ID.fullmatch(name) and not Path(name).exists()}
    for what, name in on_hub.items():
        first, known = next(iter(on_hub.items()))
        if name.lower() != known.lower():
            log.warning(
                "%s is for the base %s, and %s is %s; if their weights differ, the merge fits neither of the two",
                *(what, name, first, known if first == "base" else f"for {known}"),
            )
            return


def check_base(adapters: Mapping[str, Adapter], base: Weights, where: str) -> None:
    """Check that every adapter belongs to the base, and that a module has the same name in all adapters.

    No tensor of the base is read. An adapter belongs to it if at least one of its modules does: heads may be tied or
    resized, and quantized weights have other shapes.

    Args:
        adapters: the adapters by task.
        base: the weights in the base's file.
        where: the base as typed, for error messages.

    Raises:
        UserError: one does not, or calls a module by a name of another version of transformers.
    """
    modules = {name.rpartition(".")[0] for name in base}
    known: dict[str, tuple[str, str]] = {}
    for task, adapter in adapters.items():
        own = {weight_of(module, adapter.modules): module for module in adapter.modules}
        names, joined = match_loaded(base, list(own))
        found = {name: own[mine] for name, mine in names.items() if _fits(base[name], *adapter.modules[own[mine]][:2])}
        packed = not names and not modules.isdisjoint(adapter.modules)  # <module>.qweight
        if not found and not joined and not packed:
            raise UserError(
                f"model {task!r} ({adapter.path}) changes no weight of base={where} "
                f"({next(iter(adapter.modules), 'none')}, ...); give the base that it was trained on, or leave base out"
            )
        for name, module in found.items():
            other, first = known.setdefault(name, (module, task))
            if other != module:
                raise UserError(
                    f"models {first!r} and {task!r} have different names for one module, {other!r} and {module!r}, "
                    "of different versions of transformers; save one of them again with the version of the other"
                )


def check_names(adapters: Mapping[str, Adapter]) -> None:
    """Check that no module can have two names, where the base's names are not known.

    A module that one adapter has and an earlier one lacks may be the other name, in another version of transformers,
    of one that only the earlier one has, if the two have the same shape. Two beside each other are different modules if
    the adapters share a third one beside them (q_proj, beside v_proj and o_proj).

    Raises:
        UserError: such modules exist.
    """
    earlier: list[tuple[str, dict[str, tuple[torch.Size, str]]]] = []
    for task, adapter in adapters.items():
        own = {_NUMBERS.sub(".*", f".{m}."): (_shape(adapter, m), m) for m in adapter.modules}
        for first, known in earlier:
            same = {_beside(kind) for kind in known.keys() & own.keys()}
            for kind, other in product(sorted(own.keys() - known.keys()), sorted(known.keys() - own.keys())):
                if own[kind][0] == known[other][0] and not _beside(kind) == _beside(other) in same:
                    raise UserError(
                        f"model {first!r} changes {known[other][1]!r} and model {task!r} {own[kind][1]!r}, which may "
                        "be one module in two versions of transformers; give base=FOLDER, a local copy of their base, "
                        "to compare the names, or save one adapter again with the version of the other"
                    )
        earlier.append((task, own))


def _beside(kind: str) -> str:
    """The module that contains a module, of names without numbers of layers that end in a dot."""
    return kind[:-1].rpartition(".")[0]


def _shape(adapter: Adapter, module: str) -> torch.Size:
    b, a, _ = adapter.modules[module]
    return torch.Size((b.shape[0], a.shape[1]))


def _fits(weight: Tensor, b: Tensor, a: Tensor) -> bool:
    """Whether B A has the shape of a weight, which may be stored transposed, or quantized in another shape."""
    m, n = b.shape[0], a.shape[1]
    return not weight.is_floating_point() or weight.shape in (torch.Size((m, n)), torch.Size((n, m)))
