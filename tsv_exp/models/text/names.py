"""Checkpoints of encoders under the names of the encoder alone: prefixes such as `bert.` go, heads are left out."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from tsv_exp.checkpoints.readers import Reader
from tsv_exp.errors import UserError
from tsv_exp.storage.digests import digest

OLD = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}  # of files made before 2019


class EncoderWeights(Mapping[str, Tensor]):
    """The encoder in a checkpoint, read lazily: its name -> the tensor under its name in the file."""

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
        """Which file holds a tensor, for errors."""
        return self.source.file_of(self.names.get(name, name))

    @cached_property
    def digest(self) -> str:
        """Of the file and of what is taken from it."""
        return digest(self.source.digest, dict(self.names))


def encoder_weights(source: Reader, encoder: Mapping[str, Tensor], prefix: str, where: str) -> EncoderWeights:
    """The encoder's weights in a checkpoint of the encoder alone, or of one with a head of any kind.

    Args:
        source: the checkpoint.
        encoder: its state dict: names and shapes that are expected.
        prefix: what names begin with where there is a head: `bert`, `roberta`, ...
        where: the file or repository, for errors.

    Raises:
        UserError: it lacks a tensor, or has one of another shape.
    """
    names = {}
    for name, weight in encoder.items():
        own = next((known for known in _candidates(name, prefix) if known in source), None)
        if own is None:
            first = ", ".join(list(source)[:3])
            raise UserError(f"{where}: lacks {name} of this encoder (it begins with {first}); give another checkpoint")
        if source[own].shape != weight.shape:
            raise UserError(
                f"{where}: {own} has shape {tuple(source[own].shape)}, this encoder's is {tuple(weight.shape)}; "
                "give a checkpoint of the same architecture and vocabulary"
            )
        names[name] = own
    return EncoderWeights(source, names)


def head_weights(source: Reader, prefix: str) -> dict[str, Tensor]:
    """What a checkpoint has beside its encoder: the parameters of a trained head."""
    return {name: source[name] for name in source if not name.startswith(f"{prefix}.") and "position_ids" not in name}


def _candidates(name: str, prefix: str) -> Iterator[str]:
    for start in ("", f"{prefix}."):
        yield start + name
        for new, old in OLD.items():
            if f".{name}".endswith(new):
                yield start + name[: len(name) - len(new) + 1] + old[1:]
