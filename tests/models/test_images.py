"""Preprocessing of images, and the cache of preprocessed ones."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image as Picture

from tsv_exp.models import images
from tsv_exp.models.images import preprocess


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("size", [(30, 41), (64, 64), (33, 500), (7, 5)])
def test_preprocessing_is_open_clips(size: tuple[int, int], mode: str) -> None:
    from torchvision.transforms import InterpolationMode, functional  # slow import

    picture = functional.to_pil_image(torch.randint(0, 256, (3, *size), dtype=torch.uint8)).convert(mode)
    resized = functional.center_crop(functional.resize(picture, 32, InterpolationMode.BICUBIC), 32)
    assert torch.equal(preprocess(picture, 32), functional.pil_to_tensor(resized.convert("RGB")))


@pytest.mark.gpu
def test_batches_for_a_gpu_are_in_pinned_memory(tmp_path: Path) -> None:
    torch.cuda.init()
    pictures = images.Pictures(lambda i: Picture.new("L", (9, 9), i), 5, 8)
    split = images.store(tmp_path / "some.images", pictures, torch.arange(5), 10**9, "x")
    found = [batch for batch, _ in split.batches(2)]
    assert all(batch.is_pinned() for batch in found)
    assert torch.cat([batch.cuda(non_blocking=True) for batch in found])[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_the_image_cache_keeps_within_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = images.Pictures(lambda i: Picture.new("L", (9, 9), i), 5, 8)
    labels = torch.arange(5)
    need = 5 * (3 * 8 * 8 + 8)
    for number, (limit, kept) in enumerate([(need - 1, False), (need, True), (need + 1, False)]):
        split = images.store(tmp_path / f"{number}.images", pictures, labels, limit, "x")
        assert (tmp_path / f"{number}.images").exists() == kept
        batches = list(split.batches(2))
        assert [len(batch) for batch, _ in batches] == [2, 2, 1]
        assert torch.cat([batch for batch, _ in batches])[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
        assert torch.cat([some for _, some in batches]).tolist() == [0, 1, 2, 3, 4]
    with monkeypatch.context() as gpu:
        gpu.setattr(torch.cuda, "is_initialized", lambda: True)
        gpu.setattr(torch.Tensor, "pin_memory", lambda batch: batch + 1)
        assert [int(batch[0, 0, 0, 0]) for batch, _ in split.batches(2)] == [1, 3, 5]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    images.store(tmp_path / "full.images", pictures, labels, 10**9, "x")
    assert not (tmp_path / "full.images").exists()
