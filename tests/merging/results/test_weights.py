import logging

import pytest
import torch
from models import zoo
from torch import nn

from tsv_exp import UserError, apply, merge


def test_running_variances_stay_positive(caplog):
    base = nn.BatchNorm1d(4).state_dict()
    finetuned = {f"t{i}": base | {"running_var": torch.tensor([0.2, 1.5, 0.9, 0.1])} for i in range(2)}
    merged = merge(base, finetuned, "weight_average")
    with caplog.at_level(logging.WARNING):
        found = apply(base, merged, 2.0)["running_var"]
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 0.8, 1.0]))
    assert "2 running variances would be below 0" in caplog.text


@pytest.mark.parametrize("alpha", [1e40, -1e40, float("nan"), float("inf"), "1", None])
def test_alpha_that_float32_does_not_hold(alpha):
    base, finetuned = zoo(1, torch.float32)
    with pytest.raises(UserError, match="alpha="):
        apply(base, merge(base, finetuned, "task_arithmetic"), alpha)


def test_layers_with_fewer_rows_than_tasks_are_named(caplog):
    base, finetuned = zoo(4, torch.float32)
    with caplog.at_level(logging.WARNING):
        merge(base, finetuned, "tsv_m")
    assert [record.getMessage() for record in caplog.records] == [
        "1 layer with fewer rows or columns than the 4 tasks, of which each task keeps 0 components (k = 0), "
        "copied from the base: thin.weight; set rank_fraction, or average such layers with exclude"
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        merge(base, finetuned, "tsv_m", rank_fraction=0.1)
        merge(base, finetuned, "ties")
    assert not caplog.records


def test_alpha_belongs_to_apply():
    base, finetuned = zoo(1, torch.float32)
    with pytest.raises(UserError, match=r"give it to tsv_exp\.apply"):
        merge(base, finetuned, "task_arithmetic", alpha=0.5)
