import subprocess
import sys

import pytest
import torch
from models import close, matrix, zoo

from tsv_exp import UserError, linalg, merge
from tsv_exp.config import Engine
from tsv_exp.factors import Cached, Store


class Counting:
    """The exact algebra, counting the components that it computes."""

    def __init__(self):
        self.components = []

    def truncated_svd(self, matrices, k):
        self.components += [k] * len(matrices)
        return linalg.truncated_svd(matrices, k)

    polar = staticmethod(linalg.polar)


@pytest.fixture
def deltas():
    g = torch.Generator().manual_seed(0)
    return torch.stack([matrix(20, 12, g) for _ in range(3)])


def test_a_sweep_over_ranks_decomposes_at_most_once_and_a_half(deltas):
    counting = Counting()
    cached = Cached(counting, "counting", Store())
    for k in (4, *range(1, 13)):
        for got, expected in zip(cached.truncated_svd(deltas, k), linalg.truncated_svd(deltas, k), strict=True):
            torch.testing.assert_close(got, expected)
    assert sorted(counting.components) == [4, 4, 4, 12, 12, 12], "the default k = 12 / 3, and once all of them"


def test_factors_are_found_by_another_process_and_follow_the_bytes(deltas, tmp_path):
    first, second = Counting(), Counting()
    a = Cached(first, "counting", Store(tmp_path)).truncated_svd(deltas, 5)
    b = Cached(second, "counting", Store(tmp_path)).truncated_svd(deltas.clone(), 5)
    assert second.components == []
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    Cached(second, "other numerics", Store(tmp_path)).truncated_svd(deltas, 5)
    changed = deltas.clone()
    changed[1, 0, 0] += 1e-12
    Cached(second, "counting", Store(tmp_path)).truncated_svd(changed, 5)
    assert len(second.components) == 3 + 1


def test_memory_and_disk_are_bounded(deltas, tmp_path):
    size = sum(part[0].numel() for part in linalg.truncated_svd(deltas, 12)) * 8
    store = Store(tmp_path, memory=2 * size, disk=2 * size + 2000)
    Cached(Counting(), "counting", store).truncated_svd(deltas, 5)
    assert len(store._kept) == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_damaged_or_foreign_file_is_made_again(deltas, tmp_path):
    Cached(Counting(), "counting", Store(tmp_path)).truncated_svd(deltas, 5)
    files = sorted(tmp_path.glob("*.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:-9])
    files[1].write_bytes(b"something else")
    counting = Counting()
    Cached(counting, "counting", Store(tmp_path)).truncated_svd(deltas, 5)
    assert len(counting.components) == 2


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("method", ["tsv_m", "tsv_c"])
def test_a_merge_with_the_cache(place, method, tmp_path, monkeypatch):
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    base, finetuned = zoo(3)
    for fraction in (None, 0.2, 1.0):
        expected = merge(base, finetuned, method, rank_fraction=fraction).vector("task0")
        for _ in range(2):
            close(
                merge(base, finetuned, method, engine=Engine(cache=place), rank_fraction=fraction).vector("task0"),
                expected,
                1e-9,
            )
    assert (tmp_path / "factors").exists() == (place == "disk")
    with pytest.raises(UserError, match="choose from: off, memory, disk"):
        merge(base, finetuned, engine=Engine(cache="tape"))


def test_a_killed_writer_leaves_nothing(deltas, tmp_path):
    code = f"""
import os, torch, tsv_exp.factors as f
from tsv_exp.layers import LowRank
def die(path, tensors):
    path.write_bytes(b"half"); os._exit(9)
f.save = die
factors = LowRank(torch.ones(2, 1), torch.ones(1), torch.ones(1, 2))
f.Store(__import__("pathlib").Path({str(tmp_path)!r})).put("key", factors)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert Store(tmp_path).get("key") is None
    Store(tmp_path).put("key", linalg.truncated_svd(deltas[0], 2))
    assert Store(tmp_path).get("key") is not None
