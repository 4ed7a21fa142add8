import pytest
import torch

from tsv_exp.errors import UserError
from tsv_exp.runtime.devices import mixed, resolve

CPU = torch.device("cpu")


def test_auto_on_a_cpu_is_bfloat16_or_float32() -> None:
    assert resolve("auto", CPU) in (torch.bfloat16, torch.float32)


def test_names_are_taken_as_given() -> None:
    assert resolve("float16", CPU) is torch.float16


def test_unknown_name_is_one_clear_error() -> None:
    with pytest.raises(UserError, match="precision=half"):
        resolve("half", CPU)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_matrix_products_have_the_dtype(dtype: torch.dtype) -> None:
    with mixed(dtype, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype
