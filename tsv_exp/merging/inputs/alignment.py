"""A model under the names of its base: prefixes, tied weights, and ignored tensors."""

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch

from tsv_exp.merging.inputs.names import match_names
from tsv_exp.merging.inputs.views import Renamed
from tsv_exp.merging.layer import ExplicitDeltas, Weights

log = logging.getLogger(__name__)


def align(
    base: Weights, model: Weights, keep: Sequence[str] = (), ignore: Sequence[str] = (), what: str = "a model"
) -> Weights:
    """The model under the base's names. Other names stay, unless ignored, so that an error can name them.

    A tensor that the model lacks is taken to be tied to another where the two are equal in the base (an output head and
    the embedding, of which transformers saves one); so is one that the base lacks and that equals another of the model.

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
    for name in [name for name in base if name not in names and not matches(name, keep)]:
        if (twin := _twin(base, name, list(names))) is not None:
            names[name] = names[twin]
    for name in own:
        if name not in taken and _twin(model, name, list(taken)) is None:
            names.setdefault(name, name)
    if len(names) == len(model) and all(name == partner for name, partner in names.items()):
        return model
    if other := [name for name, own in names.items() if name != own]:
        log.info("%s: %d tensors have other names, such as %r for %r", what, len(other), names[other[0]], other[0])
    return Renamed(model, names)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _twin(weights: Weights, name: str, others: Sequence[str]) -> str | None:
    """Another tensor with the same entries; of matrices that are not constant: fresh ones are equal by chance."""
    wanted = weights[name]
    if wanted.dim() < 2 or not wanted.is_floating_point() or bool((wanted == wanted.flatten()[:1]).all()):
        return None
    alike = (other for other in others if weights[other].shape == wanted.shape)
    return next((other for other in alike if torch.equal(weights[other], wanted)), None)
