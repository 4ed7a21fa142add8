import pytest
import torch

from tsv_exp.models.tiny.catalogue import TASKS, _handwriting
from tsv_exp.models.tiny.data import Data

DATA = Data(seed=7, train=60, validation=40, test=40)


@pytest.mark.parametrize("task", TASKS)
def test_splits_are_balanced_reproducible_and_disjoint(task: str) -> None:
    train, test = DATA.split(task, "train"), DATA.split(task, "test")
    assert train.inputs.shape == (60, 3, 28, 28)
    assert train.inputs.dtype == torch.uint8
    counts = torch.bincount(train.labels, minlength=len(TASKS[task].classes))
    assert counts.max() - counts.min() <= 1
    assert torch.equal(train.inputs, DATA.split(task, "train").inputs)
    both = torch.cat([train.inputs, test.inputs]).flatten(1)
    assert len(torch.unique(both, dim=0)) == 100


def test_other_seed_other_images() -> None:
    other = Data(seed=8, train=60).split("greek", "train")
    assert not torch.equal(other.inputs, DATA.split("greek", "train").inputs)


def test_one_split_does_not_depend_on_the_size_of_another() -> None:
    assert torch.equal(Data(seed=7, train=5, test=40).split("clock", "test").inputs, DATA.split("clock", "test").inputs)


def test_handwriting_is_split_once_and_for_all() -> None:
    parts = _handwriting()
    sizes = {split: sum(len(parts[digit, split]) for digit in range(10)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 1000, "validation": 250, "test": 547}
