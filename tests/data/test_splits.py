"""Validation examples drawn from training examples."""

import torch

from tsv_exp.data.splits import Holdout


def test_holdout() -> None:
    train, validation = Holdout().draw(1000)
    assert (len(train), len(validation)) == (900, 100)
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(1000))
    assert torch.equal(validation, Holdout().draw(1000)[1])
    assert not torch.equal(validation, Holdout(seed=1).draw(1000)[1])
    assert len(Holdout().draw(100_000)[1]) == 5000
