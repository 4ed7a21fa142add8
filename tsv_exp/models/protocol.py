"""What the flow needs to know of a model: its encoder, heads, data and checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from tsv_exp.tasks.task import Split, SplitName, Task


class Model(Protocol):
    """A pre-trained image encoder with its tasks; built from conf/model/<name>.yaml.

    `family` names where the checkpoints come from (published figures belong to one family of checkpoints).
    """

    name: str
    family: str

    def catalogue(self) -> dict[str, Task]:
        """All tasks by name, in the order whose prefixes are the 8-, 14- and 20-task sets."""
        ...

    def encoder(self) -> nn.Module:
        """A fresh image encoder with the base weights: float images (B, 3, H, W) -> features (B, d)."""
        ...

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) to the encoder's float input, on their device."""
        ...

    def head(self, task: Task) -> Tensor:
        """Class weights (C, d), float32: logits = normalized features @ headᵀ."""
        ...

    def split(self, task: Task, split: SplitName) -> Split:
        """The images and labels of one split."""
        ...

    def base(self) -> Mapping[str, Tensor]:
        """The base weights: the state dict of `encoder()`."""
        ...

    def finetuned(self, tasks: Sequence[Task]) -> dict[str, Mapping[str, Tensor]]:
        """The fine-tuned weights by task, with the keys of `base()`; trains or downloads what is missing."""
        ...

    def complete(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights with the keys of `base()` and the base's text side: the state dict of a whole CLIP of open_clip."""
        ...

    def identity(self, task: Task) -> str:
        """Digest of what, beside the weights, an accuracy on this task depends on: data and head."""
        ...
