"""The splits of a task: taken from the data where present, else drawn from train with a fixed seed and recorded."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tsv_exp.data.examples import Examples, Kind, Source, check_labels
from tsv_exp.errors import UserError
from tsv_exp.storage.files import atomic
from tsv_exp.tasks.task import SplitName, Task

TEST = 0.2  # fraction of the examples that becomes the test split of data without one


@dataclass(frozen=True)
class Holdout:
    """Validation examples: a fraction of train, at most `most`, drawn with `seed`; the rest is for training."""

    share: float = 0.1
    most: int = 5000
    seed: int = 0

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Sorted row indices of the training and the validation examples among `count` rows of train."""
        return self._drawn(count, min(int(self.share * count), self.most))

    def splits(self, count: int, missing: Collection[str]) -> dict[SplitName, Tensor]:
        """Sorted row indices, among `count` rows, of train and of the missing splits (test, validation)."""
        found: dict[SplitName, Tensor] = {"train": torch.arange(count)}
        if "test" in missing:
            found["train"], found["test"] = self._drawn(count, int(TEST * count))
        if "validation" in missing:
            rest = found["train"]
            train, validation = self.draw(len(rest))
            found["train"], found["validation"] = rest[train], rest[validation]
        return found

    def _drawn(self, count: int, held: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        held = max(1, held)
        return order[held:].sort().values, order[:held].sort().values


def split_examples(
    task: Task, source: Source, split: SplitName, kind: Kind, holdout: Holdout, record: Path
) -> Examples:
    """The examples of a split.

    Args:
        task: the task.
        source: the source of its examples.
        split: the split.
        kind: the kind of input that the model encodes.
        holdout: how a missing split is drawn.
        record: file to which the row indices of drawn splits are written.

    Raises:
        UserError: the data cannot be fetched or read, do not fit the task, or are too few to draw a split from.
    """
    if split != "train" and source.has(split):
        return _checked(task, source.examples(task, split, kind))
    train = _checked(task, source.examples(task, "train", kind))
    missing = [name for name in ("validation", "test") if not source.has(name)]
    if not missing:
        return train
    rows = holdout.splits(len(train), missing)
    if not all(len(part) for part in rows.values()):
        raise UserError(
            f"{train.where}: {len(train)} examples are too few to draw {' and '.join(missing)} from; give more, "
            "or these splits in the task's YAML"
        )
    with atomic(record) as temporary:
        content = {"rows of train": len(train), "seed": holdout.seed}
        drawn = {name: rows[name].tolist() for name in rows if name != "train"}
        temporary.write_text(json.dumps(content | drawn), encoding="utf-8")
    return train.take(rows[split])


def _checked(task: Task, examples: Examples) -> Examples:
    check_labels(task, examples.labels, examples.where)  # also for user-defined sources
    return examples
