"""Factors of parameters that PEFT changes by name (target_parameters), such as the experts of a layer in one tensor.

PEFT wraps the module X of such a parameter, and wraps it again for each further one: the factors of X's last parameter
have the name X, those of the one before X.base_layer. The factors of E matrices (E, m, n) are stored as two: rows e · r
to (e + 1) · r of A belong to matrix e, and the columns e, E + e, 2 E + e, ... of B.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tsv_exp.checkpoints.loaded_names import loaded_parameters
from tsv_exp.errors import UserError
from tsv_exp.merging.layer import Weights

_NESTED = re.compile(r"(\.base_layer)+$")


@dataclass(frozen=True)
class Layout:
    """What a model's parameters are called, by the last name of their modules: prefixes of names may differ.

    `leaves`: the parameters of the modules of a name. `ordered`: whether they are in the order of the model.
    `transposed`: whether the modules of a name store matrices as (in, out); empty if that is not known.
    """

    leaves: Mapping[str, Sequence[str]]
    ordered: bool
    transposed: Mapping[str, bool]

    @classmethod
    def of(cls, base: Weights) -> "Layout":
        """That of the model of transformers in the base's folder, or of the names in the base's file."""
        loaded = loaded_parameters(base)
        leaves: dict[str, dict[str, None]] = {}
        for name in base if loaded is None else loaded:
            leaves.setdefault(holder(name), {})[name.rpartition(".")[2]] = None
        transposed = {holder(name): flag for name, flag in (loaded or {}).items()}
        return cls({module: tuple(own) for module, own in leaves.items()}, loaded is not None, transposed)


def parameters_of(path: Path, modules: Iterable[str], targets: Sequence[str], layout: Layout) -> dict[str, str]:
    """Module of an adapter -> the parameter that it changes, of modules that hold a targeted one.

    Args:
        path: the adapter's folder.
        modules: names of all its modules.
        targets: the parameters' names in its configuration, which may lack leading parts.
        layout: the model's.

    Raises:
        UserError: a module has several such parameters, and which factors are whose is not known.
    """
    wrapped: dict[str, list[str]] = {}
    for module in modules:
        wrapped.setdefault(_NESTED.sub("", module), []).append(module)
    found: dict[str, str] = {}
    for module, nested in wrapped.items():
        own = [f"{module}.{leaf}" for leaf in layout.leaves.get(module.rpartition(".")[2], ())]
        own = [name for name in own if any(name == target or name.endswith(f".{target}") for target in targets)]
        if not own and nested == [module]:  # its weight, as a linear layer
            continue
        if len(own) != len(nested) or (len(own) > 1 and not layout.ordered):
            raise UserError(
                f"{path}: which parameters of {module!r} its factors change (target_parameters) is not known; give the "
                "base as a folder with the config.json of a model that the installed transformers knows, or merge the "
                "adapter into its model (PEFT's merge_and_unload)"
            )
        found |= zip(sorted(nested, key=len, reverse=True), own, strict=True)
    return found


def holder(parameter: str) -> str:
    """The last name of the module of a parameter."""
    return ".".join(parameter.split(".")[-2:-1])


def of_matrices(b: Tensor, a: Tensor, count: int, straight: bool) -> tuple[Tensor, Tensor]:
    """Factors of E matrices as (E, m, r) and (E, r, n), from B of E · r columns and A of E · r rows.

    They are transposed if B A is the transpose of the change.
    """
    left = b.reshape(len(b), -1, count).permute(2, 0, 1)
    right = a.reshape(count, -1, a.shape[1])
    return (left, right) if straight else (right.mT, left.mT)


def straight(rows: int, shape: torch.Size, version: str, transposed: bool | None) -> bool | None:
    """Whether B A is the change of each of E matrices (E, m, n), not its transpose; None if that is not known.

    The shapes tell; for square matrices the version of PEFT. Those before 0.19 took every tensor for (E, in, out),
    unless transformers changed that; 0.19.0 turned the wrong ones (github.com/huggingface/peft/pull/3165).

    Args:
        rows: of B.
        shape: (E, m, n).
        version: in the adapter's configuration, from 0.18 on.
        transposed: whether the model stores the matrices as (in, out), if that is known.
    """
    count, m, n = shape
    if m != n:
        return rows != n
    if count == 1:  # PEFT takes it for a linear layer
        return True
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    if transposed is not None and (version == "0.19.1" or numbers > (0, 19, 1)):
        return not transposed
    return False if transposed and numbers < (0, 19) and "dev" not in version else None
