import pytest
import torch

from tsv_exp import UserError
from tsv_exp.runtime.parallel.distributed import assigned, rank_device, split_work, world_size


@pytest.mark.parametrize(
    ("wanted", "rank", "device"),
    [
        ("cuda", "1", "cuda:1"),
        ("auto", "1", "cuda:1"),
        ("cuda:0", "1", "cuda:0"),
        ("cpu", "1", "cpu"),
        ("cuda", None, "cuda"),
    ],
)
def test_every_process_has_its_own_gpu(monkeypatch, wanted, rank, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert rank_device(wanted) == torch.device(device)


def test_a_process_without_a_gpu_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="device=cuda:2"):
        rank_device("cuda")


def test_a_single_file_is_cut_by_cost():
    costs = {"embedding": 30, "a": 10, "b": 10, "c": 10, "head": 1, "bias": 0}
    assert split_work([list(costs)], costs, 1) == [(0, list(costs))]
    cut = split_work([list(costs)[:4], list(costs)[4:]], costs, 2)
    assert [name for _, names in cut for name in names] == list(costs)
    assert cut[0] == (0, ["embedding"])
    totals = {i: sum(costs[name] for name in names) for i, (_, names) in enumerate(cut)}
    assert sorted(sum(totals[i] for i in assigned(totals, rank, 2)) for rank in (0, 1)) == [30, 31]


@pytest.mark.parametrize(
    "given",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"},
        {"WORLD_SIZE": "2", "RANK": "x", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
    ],
)
def test_some_of_torchruns_variables_are_not_enough(monkeypatch, given):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert world_size() == 1
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"WORLD_SIZE={given['WORLD_SIZE']} is set, .*torchrun, or unset WORLD_SIZE$"):
        world_size()
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert world_size() == 2
