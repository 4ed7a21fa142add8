"""Maps a checkpoint to a network's names: adds or removes prefixes such as `bert.`, and drops heads that it lacks."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tsv_exp.checkpoints.readers import Reader
from tsv_exp.errors import UserError
from tsv_exp.storage.digests import digest

OLD = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}  # names in files from before 2019


class NetworkWeights(Mapping[str, Tensor]):
    """A network in a checkpoint, read lazily: the network's name of a tensor -> the tensor."""

    def __init__(self, source: Reader, names: Mapping[str, str]):
        self.source = source
        self.names = names

    def __getitem__(self, name: str) -> Tensor:
        return self.source[self.names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor, for error messages."""
        return self.source.file_of(self.names.get(name, name))

    @cached_property
    def digest(self) -> str:
        """Digest of the file and of the names taken from it."""
        return digest(self.source.digest, dict(self.names))


def network_weights(
    source: Reader, shapes: Mapping[tuple[str, ...], torch.Size], prefix: str, where: str
) -> NetworkWeights:
    """A network's weights in a checkpoint, with any head or without one.

    Args:
        source: the checkpoint.
        shapes: all names of each parameter (several where it is tied) -> its shape; the first name is the result's.
        prefix: prefix of the names in checkpoints with a head: `bert`, `roberta`, `transformer`, ...
        where: the file or repository, for error messages.

    Raises:
        UserError: it lacks a tensor, or has one of another shape.
    """
    names = {}
    for known, shape in shapes.items():
        own = next((name for each in known for name in _candidates(each, prefix) if name in source), None)
        if own is None:
            first = ", ".join(list(source)[:3])
            raise UserError(
                f"{where}: lacks {known[0]} of this network (it begins with {first}); give another checkpoint"
            )
        if source[own].shape != shape:
            raise UserError(
                f"{where}: {own} has shape {tuple(source[own].shape)}, this network's is {tuple(shape)}; "
                "give a checkpoint of the same architecture and vocabulary"
            )
        names[known[0]] = own
    return NetworkWeights(source, names)


def head_weights(source: Reader, prefix: str) -> dict[str, Tensor]:
    """The parameters of a checkpoint that are not part of the encoder: its trained head."""
    return {name: source[name] for name in source if not name.startswith(f"{prefix}.") and "position_ids" not in name}


def _candidates(name: str, prefix: str) -> Iterator[str]:
    for whole in dict.fromkeys((name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))):
        yield whole
        for new, old in OLD.items():
            if f".{whole}".endswith(new):
                yield f".{whole}".removesuffix(new)[1:] + (old if f".{whole}" != new else old[1:])
