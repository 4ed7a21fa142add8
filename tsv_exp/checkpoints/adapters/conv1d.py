"""Weights that are stored transposed, as (in, out): those of transformers' Conv1D layers (GPT-2 and others)."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.storage.json_files import read_json, values_of

_MODULES = re.compile(r"(.*\.)?(c_attn|q_attn|c_proj|c_fc)")
_TYPES = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder"}


def conv1d_weights(base: Mapping[str, Tensor]) -> set[str] | None:
    """The names of a model's weights that are stored transposed; None if that cannot be known.

    The model type in the config.json beside the weights decides. Without one, a bias does: it is as long as the
    weight has columns, where the two sizes differ.
    """
    modules = {name: name.removesuffix(".weight") for name in base if name.endswith(".weight")}
    named = {name for name, module in modules.items() if _MODULES.fullmatch(module) and base[name].dim() == 2}
    if not named:
        return named
    if types := model_types(getattr(base, "path", None)):
        return named if types & _TYPES else set()
    columns = {
        len(base[bias]) == base[name].shape[1]
        for name in named
        if (bias := f"{modules[name]}.bias") in base and base[name].shape[0] != base[name].shape[1]
    }
    if len(columns) != 1:
        return None
    return named if columns.pop() else set()


def known_conv1d_weights(base: Mapping[str, Tensor], option: str) -> set[str]:
    """As `conv1d_weights`, for `option`, which needs to know.

    Raises:
        UserError: it cannot be known.
    """
    found = conv1d_weights(base)
    if found is None:
        raise UserError(
            f"{option}: the base's layers may be stored transposed (Conv1D), and its type is unknown; give it as a "
            "folder with its config.json"
        )
    return found


def model_types(path: Path | None) -> set[str]:
    """The model types in the config.json next to a checkpoint file, including nested ones."""
    try:
        config = read_json(Path(path or "").parent / "config.json")
    except (OSError, ValueError):
        return set()
    return {kind for kind in values_of(config, "model_type") if isinstance(kind, str)}
