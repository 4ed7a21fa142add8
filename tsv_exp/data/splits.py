"""The splits of a task: as the data have them; what is missing is drawn from train by a fixed seed and recorded."""

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

TEST = 0.2  # share of the examples that becomes the test split of data without one


@dataclass(frozen=True)
class Holdout:
    """Validation examples: a share of train, but no more than `most`, drawn by `seed`; the rest is for training."""

    share: float = 0.1
    most: int = 5000
    seed: int = 0

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Ascending row numbers of training and of validation among `count` rows of train."""
        return self._drawn(count, min(int(self.share * count), self.most))

    def splits(self, count: int, missing: Collection[str]) -> dict[SplitName, Tensor]:
        """Ascending row numbers, among `count` rows, of train and of the missing ones of test and validation."""
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
        task: whose.
        source: of the task.
        split: the split.
        kind: what the model encodes.
        holdout: how a missing split is drawn.
        record: file that takes the row numbers of drawn splits.

    Raises:
        UserError: the data cannot be had, read, or don't fit the task, or are too few to draw from.
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
    check_labels(task, examples.labels, examples.where)  # of sources in Python too
    return examples
