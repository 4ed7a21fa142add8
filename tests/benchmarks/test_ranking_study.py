"""Candidates for another embedded benchmark."""

import torch
from ranking_study import Candidate

from tsv_exp.finetuning.training import Recipe
from tsv_exp.models.tiny.data import Data
from tsv_exp.models.tiny.model import TinyModel

DATA, RECIPE = Data(1, train=30, validation=60, test=1), Recipe(lr=1e-3, steps=1)


def candidate(mix: float) -> Candidate:
    return Candidate(mix, data=DATA, finetune=RECIPE)


def test_class_embeddings_are_turned_but_keep_their_norms() -> None:
    same, turned = candidate(0.0), candidate(1.0)
    task = same.catalogue()["dice"]
    plain, mixed = same.head(task), turned.head(task)
    torch.testing.assert_close(plain, TinyModel(DATA, RECIPE).head(task))
    torch.testing.assert_close(mixed.norm(dim=1), plain.norm(dim=1))
    cosines = torch.cosine_similarity(plain, mixed)
    assert (cosines > 0.4).all()
    assert (cosines < 0.9).all()
    assert torch.equal(mixed, candidate(1.0).head(task))
