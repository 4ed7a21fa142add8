"""A model under the names of its base: prefixes, tied weights, and ignored tensors."""

import logging
import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from tsv_exp.merging.inputs.names import match_names
from tsv_exp.merging.inputs.views import Renamed
from tsv_exp.merging.layer import ExplicitDeltas, Weights
from tsv_exp.runtime.messages.counts import counted

log = logging.getLogger(__name__)

_SAMPLE = 8  # entries
_EMBEDDING = re.compile(r"(embed\w*|wte|shared)\.weight$")
_HEAD = re.compile(r"(.*\.)?(lm_head|embed_out|output_projection|decoder)\.weight")


def align(
    base: Weights, model: Weights, keep: Sequence[str] = (), ignore: Sequence[str] = (), what: str = "a model"
) -> Weights:
    """The model under the base's names. Other names stay, unless ignored, so that an error can name them.

    A tensor that the model lacks is taken to be tied to another where the two are equal in the base (an output head and
    the embedding, of which transformers saves one); so is one that the base lacks and that equals another of the model.
    Of two tied tensors, the base may hold the embedding and the model the head (safetensors' save_model).

    Args:
        base: the pre-trained weights.
        model: the fine-tuned ones; those that know their deltas (adapters) have the base's names already.
        keep: patterns of the base's names that the model need not have.
        ignore: patterns of the model's names that are left out.
        what: the model, in the line that is logged where names differ.
    """
    if isinstance(model, ExplicitDeltas):
        return model
    own = [name for name in model if not matches(name, ignore)]
    names = match_names(list(base), own)
    taken = set(names.values())
    for name, twin in _twins(base, [name for name in base if name not in names and not matches(name, keep)], names):
        names[name] = names[twin]
    left = [name for name in own if name not in taken]
    tied = {name for name, _ in _twins(model, left, taken)}
    extra = [name for name in left if name not in tied]
    missing = [name for name in base if name not in names and not matches(name, keep)]
    pair = len(extra) == len(missing) == 1 and _one_tied(missing[0], extra[0])
    if pair and model[extra[0]].shape == base[missing[0]].shape:
        names[missing[0]] = extra.pop()
    for name in extra:
        names.setdefault(name, name)
    if len(names) == len(model) and all(name == partner for name, partner in names.items()):
        return model
    if other := [name for name, own in names.items() if name != own]:
        number = counted(len(other), "tensor")
        log.info("%s: %s with another name, such as %r for %r", what, number, names[other[0]], other[0])
    return Renamed(model, names)


def align_names(base: Sequence[str], own: Sequence[str], what: str) -> dict[str, str]:
    """The names of another model or adapter, each with what it is called in the base's convention.

    Where partners differ by one prefix, names without a partner are changed in the same way.
    """
    found = {name: partner for partner, name in match_names(base, own).items()}
    prefixes = {_prefixes(name, partner) for name, partner in found.items() if name != partner}
    if not prefixes:
        return {name: name for name in own}
    name, partner = next((name, partner) for name, partner in found.items() if name != partner)
    log.info("%s: %s with another name, such as %r for %r", what, counted(len(found), "module"), name, partner)
    off, on = next(iter(prefixes)) if len(prefixes) == 1 else ("", "")
    rest = {name: on + name.removeprefix(off) for name in own if name.startswith(off)}
    return {name: found.get(name, rest.get(name, name)) for name in own}


def _prefixes(name: str, other: str) -> tuple[str, str]:
    """What is in front of the components that two names share at their ends."""
    parts, others = name.split("."), other.split(".")
    while parts and others and parts[-1] == others[-1]:
        parts.pop()
        others.pop()
    off, on = ("".join(f"{part}." for part in front) for front in (parts, others))
    return off, on


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _one_tied(name: str, other: str) -> bool:
    """Whether one is the name of an embedding and one that of an output head."""
    return any(_EMBEDDING.search(a) and _HEAD.fullmatch(b) for a, b in ((name, other), (other, name)))


def _twins(weights: Weights, wanted: Sequence[str], others: Collection[str]) -> list[tuple[str, str]]:
    """Those of the wanted tensors that have the same entries as another, and its name.

    Only matrices that are not constant: fresh ones are equal by chance. Their first entries are compared first, so that
    time grows with the number of tensors and not with that of pairs.
    """
    known: dict[tuple[object, ...], list[str]] = {}
    for other in filter(lambda name: _comparable(weights[name]), others if wanted else ()):
        known.setdefault(_first(weights[other]), []).append(other)
    found = []
    for name in wanted:
        tensor = weights[name]
        if _comparable(tensor):
            alike = [other for other in known.get(_first(tensor), []) if torch.equal(weights[other], tensor)]
            if alike and not bool((tensor == tensor.flatten()[:1]).all()):
                found.append((name, alike[0]))
    return found


def _comparable(tensor: Tensor) -> bool:
    plain = tensor.layout is torch.strided and not tensor.is_meta
    return plain and tensor.dim() > 1 and tensor.is_floating_point() and bool(tensor.numel())


def _first(tensor: Tensor) -> tuple[object, ...]:
    """Shape, dtype and the bytes of the first entries."""
    row = tensor.detach()[(0,) * (tensor.dim() - 1)][:_SAMPLE]
    return (tensor.shape, tensor.dtype, *row.contiguous().view(torch.uint8).tolist())
