import pytest
import torch

from tsv_exp.errors import UserError
from tsv_exp.runtime.devices import batch_size, device_of, mixed, moved, resolve, usable

CPU = torch.device("cpu")


def test_auto_on_a_cpu_is_bfloat16_or_float32() -> None:
    assert resolve("auto", CPU) in (torch.bfloat16, torch.float32)


@pytest.mark.gpu
def test_auto_is_the_gpu_where_there_is_one() -> None:
    device = device_of("auto")
    assert device == device_of("cuda") == torch.device("cuda")
    assert usable("cuda:0").index == 0
    assert resolve("auto", device) in (torch.bfloat16, torch.float16)
    assert 1 <= batch_size(device) <= 1024
    nested = {"a": [torch.ones(2), (torch.zeros(1), "text")]}
    there = moved(nested, device)
    assert there["a"][0].is_cuda
    assert there["a"][1][0].is_cuda
    with mixed(resolve("auto", device), device):
        assert (there["a"][0] @ there["a"][0]).dtype is not torch.float32


def test_names_are_taken_as_given() -> None:
    assert resolve("float16", CPU) is torch.float16


def test_unknown_name_is_one_clear_error() -> None:
    with pytest.raises(UserError, match="precision=half"):
        resolve("half", CPU)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_matrix_products_have_the_dtype(dtype: torch.dtype) -> None:
    with mixed(dtype, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype
