"""What the file of a LoRA adapter holds, by the names that PEFT gives its tensors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from tsv_exp.errors import UserError

_KEY = re.compile(
    r"(base_model\.model\.)?(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.(?!weight$|bias$)\w+)?(\.weight)?"
)
_WHOLE = re.compile(
    r"(?<=\.)(base_layer|modules_to_save(\.(?!weight$|bias$)\w+)?)\."
)  # marks weights saved whole, not as factors


class Stored(NamedTuple):
    """Module -> its factors A and B, the modules that are embeddings, and name -> weight saved whole."""

    modules: dict[str, dict[str, Tensor]]
    embeddings: set[str]
    whole: dict[str, Tensor]


def read_stored(path: Path, tensors: Mapping[str, Tensor]) -> Stored:
    """Sort the tensors of an adapter's file; `path` is the adapter's folder.

    Raises:
        UserError: they are several adapters', or of another kind than LoRA's.
    """
    found = Stored({}, set(), {})
    for key in tensors:
        if match := _KEY.fullmatch(key):
            add_factor(found.modules, match, tensors[key], path)
            if match["embedding"]:
                found.embeddings.add(match["module"])
        elif ".original_module." in key:  # the base's, which PEFT saves with embeddings that were resized
            continue
        elif ".lora_" in key:
            raise UserError(f"{path}: the tensor {key!r} is not a LoRA factor; merge the adapter into its model first")
        else:
            found.whole[_WHOLE.sub("", key.removeprefix("base_model.model."))] = tensors[key]
    return found


def add_factor(modules: dict[str, dict[str, Tensor]], key: re.Match[str], factor: Tensor, path: Path) -> None:
    """Add a factor, by the parts `module` and `side` of its key.

    Raises:
        UserError: there is one with another adapter's name.
    """
    pair = modules.setdefault(key["module"], {})
    if key["side"] in pair:
        raise UserError(f"{path} holds several adapters of {key['module']!r}; save each one alone, with PEFT")
    pair[key["side"]] = factor


def usable(pair: Mapping[str, Tensor]) -> bool:
    """Whether the factors of a module are two matrices A and B of floating-point numbers."""
    matrices = all(factor.dim() == 2 and factor.is_floating_point() and factor.numel() for factor in pair.values())
    return set(pair) == {"A", "B"} and matrices
