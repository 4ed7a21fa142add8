"""Values by which a base is known again."""

import pytest
import torch

from tsv_exp.merging.inputs.samples import sample, sampled_from

WEIGHTS = {
    "vector": torch.randn(5),
    "scalar": torch.tensor(0.3),
    "empty": torch.zeros(0, 16),
    "transposed": torch.randn(70, 90).mT,
    "bfloat16": torch.randn(100, 100).bfloat16(),
    "stack": 1e-6 * torch.randn(3, 4, 5),
    "masked": torch.full((4, 4), -torch.inf).triu(1),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("again", [torch.float32, torch.bfloat16])
def test_a_rounded_base_is_known(name, dtype, again):
    values = sample(WEIGHTS[name])
    assert sampled_from(WEIGHTS[name].to(dtype), values)
    assert sampled_from(WEIGHTS[name].to(dtype).to(again), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_small_change_is_seen(dtype):
    weight = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    assert not sampled_from((weight * 1.01).to(dtype), sample(weight))
