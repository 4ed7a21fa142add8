from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tsv_exp import UserError
from tsv_exp.storage.tensor_files import save

DTYPES = [
    torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.bfloat16, torch.bool,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to(dtype)
    save(tmp_path / "x.safetensors", {"x": tensor, "none": torch.zeros(0, 3).to(dtype)})
    found = load_file(tmp_path / "x.safetensors")
    assert found["x"].dtype == dtype
    assert torch.equal(found["x"].to(torch.complex64), tensor.to(torch.complex64))
    assert found["none"].shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.float4_e2m1fn_x2])
def test_dtypes_of_codes(tmp_path: Path, dtype: torch.dtype) -> None:
    codes = torch.arange(12, dtype=torch.uint8).view(3, 4)
    save(tmp_path / "x.safetensors", {"x": codes.view(dtype)})
    found = load_file(tmp_path / "x.safetensors")["x"]
    assert (found.dtype, found.shape) == (dtype, (3, 4))
    assert torch.equal(found.view(torch.uint8), codes)


def test_a_dtype_that_safetensors_lacks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'x': safetensors has no dtype complex128"):
        save(tmp_path / "x.safetensors", {"x": torch.zeros(2, dtype=torch.complex128)})
