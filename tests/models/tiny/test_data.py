from dataclasses import asdict, replace

import pytest
import torch

from tsv_exp.errors import UserError
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


def test_first_classes_only() -> None:
    few = replace(DATA, classes=4)
    assert few.class_names("dice") == ("one", "two", "three", "four")
    assert few.class_names("greek") == DATA.class_names("greek")[:4]
    assert torch.bincount(few.split("dice", "train").labels).tolist() == [15, 15, 15, 15]
    own = replace(DATA, classes={"dice": 4})
    assert torch.equal(own.split("dice", "train").inputs, few.split("dice", "train").inputs)
    assert own.class_names("greek") == DATA.class_names("greek")


def test_contrast_and_brightness_change_the_same_images() -> None:
    plain, changed = DATA.split("clock", "test"), replace(DATA, contrast=0.5, brightness=0.3).split("clock", "test")
    wanted = (0.5 * (plain.inputs.double() / 255 - 0.5) + 0.8).clamp(0, 1) * 255
    assert torch.equal(changed.labels, plain.labels)
    assert (changed.inputs.double() - wanted).abs().max() <= 1  # rounded down
    assert wanted.max() == 255  # some are clipped


def test_settings_that_change_nothing_are_not_in_digests() -> None:
    """Trained checkpoints and scores of earlier versions stay valid."""
    assert DATA.settings("dice") == {"seed": 7, "train": 60, "validation": 40, "test": 40}
    changed = replace(DATA, classes=4, contrast=0.5, brightness=0.3)
    assert changed.settings("dice") == asdict(changed)
    own = replace(changed, classes={"dice": 4})
    assert (own.settings("dice"), "classes" in own.settings("greek")) == (changed.settings("dice"), False)


WRONG = [{"train": 0}, {"classes": 1}, {"contrast": 0.0}, {"contrast": 1.5}, {"brightness": 1}]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"dice": 1}, r"classes\.dice=1: give at least 2"),
        ({"cards": 3}, r"classes\.cards: unknown task; choose from: d"),
    ],
)
def test_wrong_numbers_of_classes_of_a_task_are_named(classes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=rf"model\.data\.{message}"):
        replace(DATA, classes=classes)


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_settings_are_named(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=rf"model\.data\.{name}={wrong[name]}: give "):
        replace(DATA, **wrong)
