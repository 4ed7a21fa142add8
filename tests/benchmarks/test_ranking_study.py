"""Candidates for another embedded benchmark."""

import torch
from ranking_study import Candidate

from tsv_exp.finetuning.training import Recipe
from tsv_exp.models.tiny.data import Data
from tsv_exp.models.tiny.model import TinyModel

DATA, RECIPE = Data(1, train=30, validation=60, test=1), Recipe(lr=1e-3, steps=1)


def candidate(classes: int | None = None, mix: float = 0.0) -> Candidate:
    return Candidate(classes, mix, data=DATA, finetune=RECIPE)


def test_fewer_classes_leave_the_other_images_as_they_are() -> None:
    few, whole = candidate(classes=4), TinyModel(DATA, RECIPE)
    task, all_of_it = few.catalogue()["dice"], whole.split(whole.catalogue()["dice"], "validation")
    found = few.split(task, "validation")
    assert task.classes == ("one", "two", "three", "four")
    assert found.labels.tolist() == [label for label in all_of_it.labels.tolist() if label < 4]
    assert torch.equal(torch.as_tensor(found.inputs), torch.as_tensor(all_of_it.inputs)[all_of_it.labels < 4])
    assert few.identity(task) != whole.identity(whole.catalogue()["dice"])


def test_class_embeddings_are_turned_but_keep_their_norms() -> None:
    same, turned = candidate(), candidate(mix=1.0)
    task = same.catalogue()["dice"]
    plain, mixed = same.head(task), turned.head(task)
    torch.testing.assert_close(plain, TinyModel(DATA, RECIPE).head(task))
    torch.testing.assert_close(mixed.norm(dim=1), plain.norm(dim=1))
    cosines = torch.cosine_similarity(plain, mixed)
    assert (cosines > 0.4).all()
    assert (cosines < 0.9).all()
    assert torch.equal(mixed, candidate(mix=1.0).head(task))
