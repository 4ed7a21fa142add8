"""The names that transformers gives weights when it loads a model, where they differ from those in the model's file.

Since version 5 it renames the weights of some architectures (ViT: `encoder.layer.0.attention.attention.query` becomes
`layers.0.attention.q_proj`), and writes the old names when it saves the model. PEFT names adapters as in memory, and
so does torch.save of a state dict.
"""

import inspect
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tsv_exp.checkpoints.adapters.attention import attention_weights
from tsv_exp.checkpoints.adapters.changed_model import ChangedModel
from tsv_exp.errors import UserError
from tsv_exp.merging.inputs.names import match_names
from tsv_exp.merging.inputs.views import Renamed
from tsv_exp.merging.layer import Weights

log = logging.getLogger(__name__)

# where PEFT refuses to change out_proj: peft.tuners.tuners_utils
_MAMBA = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}


def loaded_names(weights: Weights) -> dict[str, str | None]:
    """Name in memory -> name in the file, or None for a tensor that transformers makes of several in the file.

    The rules are transformers' own, for the architecture in the config.json beside the file. There are none without
    that file, or without transformers 5.
    """
    model = _model(weights)
    return {} if model is None else _renamed(weights, model)


def _model(weights: Weights) -> Any:
    """The model of transformers in the config.json beside the weights, without data; None if there is none."""
    try:
        import transformers
    except ImportError:
        return None
    if find_spec("transformers.conversion_mapping") is None:  # version 4, where the names are those of the file
        return None
    folder = Path(getattr(weights, "path", None) or "").parent
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # no warnings about values in config.json: no model is used
    try:
        # without False, transformers asks at the terminal whether to run the folder's code
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return getattr(transformers, (config.architectures or [""])[0])(config)
    except Exception:  # no configuration, or that of another library, or of a model with its own code
        log.debug("transformers does not load %s, so names must match as they are", folder, exc_info=True)
        return None
    finally:
        transformers.logging.set_verbosity(verbosity)


def _renamed(names: Iterable[str], model: Any) -> dict[str, str | None]:
    """Name in a model of transformers -> name in its file, or None, as in `loaded_names`."""
    return {new: name if rule is None else None for new, name, rule in _pairs(names, model)}


def _pairs(names: Iterable[str], model: Any) -> Iterator[tuple[str, str, str | None]]:
    """For each name in a file that in a model of transformers, itself, and the pattern of a rule that rearranges it."""
    from transformers.core_model_loading import rename_source_key

    renamings, others = _rules(model)
    expected, prefix = model.state_dict(), model.base_model_prefix
    for name in names:
        new, pattern = rename_source_key(name, renamings, others, prefix, expected)
        yield new, name, pattern


def _rules(model: Any) -> tuple[list[Any], list[Any]]:
    """The rules of transformers that rename tensors of a model's file, and those that rearrange them."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    rules = get_model_conversion_mapping(model)
    others = [rule for rule in rules if not isinstance(rule, WeightRenaming)]
    return [rule for rule in rules if isinstance(rule, WeightRenaming)], others


def loaded_parameters(weights: Weights) -> dict[str, bool] | None:
    """Name in memory of every parameter, in the order of the model, -> whether its module stores matrices (in, out).

    None: nothing is known of the model.
    """
    model = _model(weights)
    if model is None:
        return None
    modules = dict(model.named_modules(remove_duplicate=False))
    names = (name for name, _ in model.named_parameters(remove_duplicate=False))
    return {name: bool(getattr(modules[name.rpartition(".")[0]], "is_transposed", False)) for name in names}


def stacked_parts(weights: Weights) -> dict[str, list[tuple[str, ...]]]:
    """Name in memory of a tensor (E, m, n) -> for each of its E matrices the names in the file.

    These are the tensors that transformers stacks, after those of one matrix were joined by rows: experts.
    """
    model = _model(weights)
    if model is None:
        return {}
    from transformers.core_model_loading import Concatenate, MergeModulelist, dot_natural_key

    places: dict[str, int] = {}
    for rule in _rules(model)[1]:
        operations = [(type(operation), getattr(operation, "dim", None)) for operation in rule.operations]
        if operations in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)]):
            places |= {pattern: place for place, pattern in enumerate(rule.source_patterns)}
    found: dict[str, dict[int, list[str]]] = {}
    for new, name, pattern in sorted(_pairs(weights, model), key=lambda pair: dot_natural_key(pair[1])):
        if pattern in places:
            found.setdefault(new, {}).setdefault(places[pattern], []).append(name)
    return {new: list(zip(*(own[place] for place in sorted(own)), strict=False)) for new, own in found.items()}


def adaptable_weights(weights: Weights) -> dict[str, str] | None:
    """Name in the file of a weight that PEFT's LoRA can change -> the name of which PEFT makes that of its factors.

    These are the weights of linear layers, by their names in memory. PEFT converts the names of the experts' weights in
    the file itself, and takes every module with the last name of one (gate_proj) for an expert's: others are left out.
    So are modules that PEFT refuses, and those on which it has no effect. None: nothing is known of the model.
    """
    model = _model(weights)
    if model is None:
        return None
    from transformers.pytorch_utils import Conv1D

    modules, expected = dict(model.named_modules(remove_duplicate=False)), model.state_dict()
    unchanged = {kind: _only_read(kind) for kind in set(map(type, modules.values()))}
    attention = {
        own: f"{module}.weight"
        for own, module in attention_weights(expected).items()
        if module is not None and isinstance(modules[module], nn.MultiheadAttention)
    }
    linear, experts = {}, {}
    for new, name, rule in _pairs(weights, model):
        whole = rule is None
        if not whole and expected[new].dim() == 3:
            experts[name] = name
        elif whole and new in attention:
            linear[name] = attention[new]
        elif whole and isinstance(modules.get(module := new.removesuffix(".weight")), nn.Linear | Conv1D):
            parent, _, leaf = module.rpartition(".")
            refused = leaf == "out_proj" and model.config.model_type in _MAMBA
            if not refused and leaf not in unchanged[type(modules[parent])]:
                linear[name] = new
    if not experts:
        return linear
    ends = {name.split(".")[-2] for name in experts}
    return {name: name for name in linear if name.split(".")[-2] not in ends} | experts


def _only_read(kind: type[nn.Module]) -> set[str]:
    """The parts of a module whose weight it reads without calling them, so that factors of PEFT have no effect there.

    Those that it never calls, and those that it calls on one path and multiplies itself on another (Mamba's dt_proj).
    """
    try:
        source = inspect.getsource(kind)
    except OSError:  # installed without sources
        return set()
    read, called, multiplied = (
        set(re.findall(rf"self\.(\w+){use}", source)) for use in (r"\.weight\b", r"\(", r"\.weight @")
    )
    return read - called | multiplied


def names_in_module(module: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Name in a file -> name in a module, for those that the module has: prefixes and names in memory may differ.

    Raises:
        UserError: the module holds tensors that transformers makes of several in the file.
    """
    own = list(module.state_dict())
    found = match_names(own, names)
    transformers = sys.modules.get("transformers")  # not imported: no model of it
    if len(found) < len(names) and transformers is not None and isinstance(module, transformers.PreTrainedModel):
        try:
            loaded = _renamed(names, module)
        except ImportError:  # version 4, with one name only
            loaded = {}
        pairs = match_names(own, list(loaded))
        if joined := next((new for new in pairs.values() if loaded[new] is None), None):
            raise UserError(
                f"transformers makes the module's {joined!r} of several tensors of the file, which cannot be served; "
                "write whole models with tsv-merge task=NAME"
            )
        found = max(found, {name: old for name, new in pairs.items() if (old := loaded[new]) is not None}, key=len)
    return {name: mine for mine, name in found.items()}


def match_loaded(base: Weights, own: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The base's name -> the own name, where own names may be those in memory.

    Also returns the own name -> the name in memory of the tensors that the base has only in parts.
    """
    names = match_names(list(base), own)
    if len(names) == len(own) or not (loaded := loaded_names(base)):
        return names, {}
    known, pairs = set(names.values()), match_names(list(loaded), own).items()
    renamed = {name: mine for new, mine in pairs if (name := loaded[new]) is not None}
    joined = {mine: new for new, mine in pairs if loaded[new] is None and mine not in known}
    return max(names, renamed, key=len), joined


def with_names_of(base: Weights, model: Weights, what: str) -> Weights:
    """A model under the base's names, if one of them has the names in memory and the other those of its file.

    Raises:
        UserError: one holds tensors as in memory that are several in the other.
    """
    names = match_names(list(base), model)
    if isinstance(model, ChangedModel) or len(names) in (len(base), len(model)):
        return model
    loaded, joined = match_loaded(base, list(model))
    back, other = match_loaded(model, list(base))
    if joined or other:
        source, mine = (what, joined) if joined else ("the base", other)
        raise UserError(
            f"{source}: transformers made the tensor {next(iter(mine))!r} of several when it loaded the model; "
            "save the model with save_pretrained and give that folder"
        )
    best = max(loaded, {own: name for name, own in back.items()}, key=len)
    if len(best) == len(names):
        return model
    taken = set(best.values())
    return Renamed(model, best | {name: name for name in model if name not in taken})
