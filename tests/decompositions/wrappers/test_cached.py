import os
from pathlib import Path

import forked
import pytest
import torch
from models import close, matrix, zoo

from tsv_exp import UserError, merge
from tsv_exp.config import Engine
from tsv_exp.decompositions import exact as linalg
from tsv_exp.decompositions.wrappers import cached as factors
from tsv_exp.decompositions.wrappers.cached import CachedAlgebra, FactorCache


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
    cached = CachedAlgebra(counting, "counting", FactorCache())
    for k in (4, *range(1, 13)):
        for got, expected in zip(cached.truncated_svd(deltas, k), linalg.truncated_svd(deltas, k), strict=True):
            torch.testing.assert_close(got, expected)
    assert sorted(counting.components) == [1, 1, 1, 4, 4, 4, 12, 12, 12], "12 / 8, the default 12 / 3, and all of them"


def test_task_sets_share_one_decomposition_of_each_matrix():
    g = torch.Generator().manual_seed(0)
    counting, many = Counting(), torch.stack([matrix(40, 48, g) for _ in range(20)])
    cached = CachedAlgebra(counting, "counting", FactorCache())
    for tasks in (8, 14, 20):
        found = cached.truncated_svd(many[:tasks], 40 // tasks)
        torch.testing.assert_close(found.dense(), linalg.truncated_svd(many[:tasks], 40 // tasks).dense())
    assert counting.components == [40 // 8] * 20


@pytest.mark.parametrize("tasks", range(1, 21))
@pytest.mark.parametrize("full", [12, 64, 768])
def test_all_ranks_of_a_task_set_cost_at_most_one_and_a_half_decompositions(full, tasks):
    widths = {factors.width(k, full, tasks) for k in range(1, full + 1)}
    assert sum(widths) <= 1.5 * full
    assert all(factors.width(k, full, tasks) >= k for k in range(1, full + 1))


def test_the_result_does_not_depend_on_the_content_of_the_cache(deltas):
    filled, fresh = (CachedAlgebra(Counting(), "counting", FactorCache()) for _ in range(2))
    for k in (12, 4, 1):
        filled.truncated_svd(deltas, k)
    for got, expected in zip(filled.truncated_svd(deltas, 2), fresh.truncated_svd(deltas, 2), strict=True):
        assert torch.equal(got, expected)


def test_factors_are_found_by_another_process_and_follow_the_bytes(deltas, tmp_path):
    first, second = Counting(), Counting()
    a = CachedAlgebra(first, "counting", FactorCache(tmp_path)).truncated_svd(deltas, 5)
    b = CachedAlgebra(second, "counting", FactorCache(tmp_path)).truncated_svd(deltas.clone(), 5)
    assert second.components == []
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    CachedAlgebra(second, "other numerics", FactorCache(tmp_path)).truncated_svd(deltas, 5)
    changed = deltas.clone()
    changed[1, 0, 0] += 1e-12
    CachedAlgebra(second, "counting", FactorCache(tmp_path)).truncated_svd(changed, 5)
    assert len(second.components) == 3 + 1


@pytest.mark.parametrize("change", ["version", "torch"])
def test_other_numerics_find_nothing(deltas, tmp_path, monkeypatch, change):
    CachedAlgebra(Counting(), "counting", FactorCache(tmp_path)).truncated_svd(deltas, 5)
    if change == "version":
        monkeypatch.setattr(factors, "DECOMPOSITIONS", factors.DECOMPOSITIONS + 1)
    else:
        monkeypatch.setattr(torch, "__version__", "2.0.0")
    counting = Counting()
    CachedAlgebra(counting, "counting", FactorCache(tmp_path)).truncated_svd(deltas, 5)
    assert len(counting.components) == 3


def test_what_a_graphics_card_computed_is_its_own(deltas):
    class OnCard(torch.Tensor):
        device = torch.device("cuda")

    cached = CachedAlgebra(Counting(), "counting", FactorCache())
    assert cached._key(deltas[0].as_subclass(OnCard), 4) != cached._key(deltas[0], 4) == cached._key(deltas[0], 4)


def test_memory_and_disk_are_bounded(deltas, tmp_path):
    size = sum(part[0].numel() for part in linalg.truncated_svd(deltas, 12)) * 8
    store = FactorCache(tmp_path, memory=2 * size, disk=2 * size + 2000)
    CachedAlgebra(Counting(), "counting", store).truncated_svd(deltas, 5)
    assert len(store._in_memory) == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_damaged_or_foreign_file_is_made_again(deltas, tmp_path):
    CachedAlgebra(Counting(), "counting", FactorCache(tmp_path)).truncated_svd(deltas, 5)
    cut, foreign, flipped = sorted(tmp_path.glob("*.safetensors"))
    cut.write_bytes(cut.read_bytes()[:-9])
    foreign.write_bytes(b"something else")
    content = bytearray(flipped.read_bytes())
    content[-5] ^= 1
    flipped.write_bytes(content)
    counting = Counting()
    got = CachedAlgebra(counting, "counting", FactorCache(tmp_path)).truncated_svd(deltas, 5)
    assert len(counting.components) == 3
    assert all(torch.equal(x, y) for x, y in zip(got, linalg.truncated_svd(deltas, 5), strict=True))


def test_a_file_under_the_name_of_another_is_made_again(deltas, tmp_path):
    CachedAlgebra(Counting(), "counting", FactorCache(tmp_path)).truncated_svd(deltas, 5)
    first, second, _ = sorted(tmp_path.glob("*.safetensors"))
    first.write_bytes(second.read_bytes())
    counting = Counting()
    CachedAlgebra(counting, "counting", FactorCache(tmp_path)).truncated_svd(deltas, 5)
    assert len(counting.components) == 1


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


def killed(folder: Path) -> int:
    """Runs a process that dies while it writes factors into `folder`."""
    code = f"""
import os, pathlib, torch, tsv_exp.storage.weight_cache
from tsv_exp.decompositions.wrappers.cached import FactorCache
from tsv_exp.layers import LowRank
def die(path, *_):
    path.write_bytes(bytes(1000)); os._exit(9)
tsv_exp.storage.weight_cache.save = die
FactorCache(pathlib.Path({str(folder)!r})).put("key", LowRank(torch.ones(2, 1), torch.ones(1), torch.ones(1, 2)))
"""
    return forked.run(code, cwd=folder, env=os.environ).returncode


def test_what_killed_writers_leave_is_cleared_by_the_next(deltas, tmp_path):
    assert [killed(tmp_path), killed(tmp_path)] == [9, 9]
    assert len(list(tmp_path.glob(".*"))) == 1, "the second one cleared what the first one left"
    assert FactorCache(tmp_path).get("key") is None
    FactorCache(tmp_path).put("key", linalg.truncated_svd(deltas[0], 2))
    assert FactorCache(tmp_path).get("key") is not None
    assert not list(tmp_path.glob(".*"))


def test_two_processes_that_want_the_same_factors_make_them_once(deltas, tmp_path):
    code = """
import sys, time, torch
from pathlib import Path
from test_cached import Counting
from tsv_exp.decompositions.wrappers.cached import CachedAlgebra, FactorCache
folder, me = Path(sys.argv[1]), sys.argv[2]
class Slow(Counting):
    def truncated_svd(self, matrices, k):
        time.sleep(0.3)
        return super().truncated_svd(matrices, k)
deltas, slow = torch.load(folder / "deltas.pt"), Slow()
(folder / f"ready{me}").touch()
while len(list(folder.glob("ready*"))) < 2:
    time.sleep(0.001)
found = CachedAlgebra(slow, "slow", FactorCache(folder / "factors")).truncated_svd(deltas, 5)
torch.save((slow.components, tuple(found)), folder / f"found{me}.pt")
"""
    torch.save(deltas, tmp_path / "deltas.pt")
    here = Path(__file__).parent
    both = [forked.Program(code, str(tmp_path), me, cwd=here, env=os.environ) for me in "ab"]
    assert [program.result(60).returncode for program in both] == [0, 0]
    made, found = zip(*(torch.load(tmp_path / f"found{me}.pt") for me in "ab"), strict=True)
    assert sorted(made) == [[], [12, 12, 12]]
    for got in (*found, CachedAlgebra(Counting(), "slow", FactorCache(tmp_path / "factors")).truncated_svd(deltas, 5)):
        assert all(torch.equal(x, y) for x, y in zip(got, linalg.truncated_svd(deltas, 5), strict=True))
    assert len(list((tmp_path / "factors").glob("*.safetensors"))) == 3
    assert not list((tmp_path / "factors").glob(".*"))


def test_a_read_only_cache_is_read_and_not_written(deltas, tmp_path, monkeypatch):
    known, other = deltas[:2], deltas[2:]
    CachedAlgebra(Counting(), "exact", FactorCache(tmp_path)).truncated_svd(known, 3)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    counting = Counting()
    cached = CachedAlgebra(counting, "exact", FactorCache(tmp_path))
    for matrices in (known, other):
        got, wanted = cached.truncated_svd(matrices, 3).dense(), linalg.truncated_svd(matrices, 3).dense()
        torch.testing.assert_close(got, wanted)
    assert len(counting.components) == 1
    assert sorted(tmp_path.rglob("*")) == before
