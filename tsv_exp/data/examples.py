"""Examples of one split: labels, checked against the task, and lazily read inputs."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.tasks.task import SplitName, Task

Kind = Literal["image", "text"]  # of a model's inputs
VALUES = ("pearson", "spearman")  # metrics for regression labels
EMPTY = "the split is empty; fetch the data again, or give another copy: tasks.<name>.data=DIR"


@dataclass(frozen=True)
class Examples:
    """N examples: labels (N,), int64 class indices (float32 values for regression), and their inputs.

    `read` returns the input of a row: an image or its encoded bytes; a text, or a tuple of texts.
    """

    where: str
    labels: Tensor
    read: Callable[[int], Any]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "Examples":
        """The examples at these row indices, in this order."""
        return Examples(self.where, self.labels[rows], lambda index: self.read(int(rows[index])))

    def picture(self, index: int) -> Image.Image:
        """One decoded image.

        Raises:
            UserError: it cannot be decoded.
        """
        found = self.read(index)
        if isinstance(found, Image.Image):
            return found
        try:
            picture = Image.open(io.BytesIO(found))
            picture.load()
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise UserError(
                f"{self.where}: row {index} is not an image that can be decoded ({error}); fetch the data again, "
                "or give another copy as tasks.<name>.data=DIR"
            ) from error
        return picture

    def text(self, index: int) -> str | tuple[str, ...]:
        """One text, or the texts of several columns.

        Raises:
            UserError: it is missing.
        """
        found = self.read(index)
        parts = found if isinstance(found, tuple) else (found,)
        if not all(isinstance(part, str) for part in parts):
            raise UserError(
                f"{self.where}: row {index} has no text; remove the row, or give another column as data.input"
            )
        return found if isinstance(found, tuple) else str(found)


class Source(Protocol):
    """Where a task's examples come from; a task's YAML can name a custom source (data: {_target_: ...})."""

    def class_names(self, kind: Kind) -> Sequence[str]:
        """The class names in the data, used for a task whose YAML has none."""
        ...

    def has(self, split: SplitName) -> bool:
        """Whether the data have this split; a missing split is drawn from train."""
        ...

    def examples(self, task: Task, split: SplitName, kind: Kind) -> Examples:
        """The examples of an existing split."""
        ...

    def identity(self) -> Any:
        """Plain values that change when the data change."""
        ...


def check_labels(task: Task, labels: Tensor, where: str) -> None:
    """Check that a split has examples and that every label is a class of the task.

    Raises:
        UserError: the split is empty, or a label is invalid.
    """
    if not len(labels):
        raise UserError(f"{where}: {EMPTY}")
    if labels.is_floating_point():
        if not bool(torch.isfinite(labels).all()):
            raise UserError(f"{where}: labels hold NaN or infinite values; remove those rows")
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(task.classes):
        raise UserError(
            f"{where}: labels go from {low} to {high}, but the task's {len(task.classes)} classes are 0 to "
            f"{len(task.classes) - 1}; these checkpoints need other data: tasks.{task.name}.data=DIR"
        )


def plain(name: str) -> str:
    """A class name in the form used for comparison: letters and digits only."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def check_names(task: Task, names: Sequence[str], where: str) -> None:
    """Compare a data set's class names with the task's: their number, and the index of every name that both have.

    Raises:
        UserError: they do not agree.
    """
    if len(names) != len(task.classes):
        raise UserError(
            f"{where} has {len(names)} classes ({names[0]}, {names[1] if len(names) > 1 else ''} …), but the task has "
            f"{len(task.classes)} ({task.classes[0]} …); these checkpoints need other data: tasks.{task.name}.data=DIR"
        )
    places = {plain(name): place for place, name in enumerate(task.classes)}
    if all(name.isdecimal() for name in names):  # class numbers, perhaps sorted as text: 0, 1, 10, 11, …
        places |= {name: place for place, name in enumerate(sorted(names, key=int)) if name not in places}
    for number, name in enumerate(names):
        expected = places.get(plain(name), number)
        if expected != number:
            raise UserError(
                f"{where}: class {number} is {name!r}, but the task has that class at {expected}; "
                "the labels are in another order: give the data as one folder per class"
            )
