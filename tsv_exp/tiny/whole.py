"""The embedded benchmark's model with its text side, which is needed to save a whole CLIP."""

from collections.abc import Mapping

from torch import Tensor

from tsv_exp.tiny import network
from tsv_exp.tiny.model import TinyModel


class WholeTinyModel(TinyModel):
    """A module of its own, since cached checkpoints depend on the text of `tiny/model.py`."""

    def complete(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of a whole small CLIP with this image encoder."""
        return {**network.base_weights(self.file), **{f"visual.{name}": weight for name, weight in weights.items()}}
