import pytest
import torch

from tsv_exp.runtime.devices import batch_size

GIB = 1 << 30


@pytest.mark.parametrize(("free", "images"), [(78 * GIB, 1024), (10 * GIB, 256), (GIB, 32), (100 << 20, 2), (0, 1)])
def test_the_free_memory_of_a_gpu_decides(monkeypatch: pytest.MonkeyPatch, free: int, images: int) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GIB))
    assert batch_size(torch.device("cuda:0")) == images


def test_a_cpu_takes_a_fixed_number() -> None:
    assert batch_size(torch.device("cpu")) == 256
