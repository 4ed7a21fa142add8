"""Merges on a GPU, where layers of one shape are a batch, against the same merges in float64 on the CPU."""

from pathlib import Path

import pytest
import torch
from models import METHODS, SHAPES, close, matrix, moments, zoo

from tsv_exp import Method, UserError, merge
from tsv_exp.config import Engine
from tsv_exp.layers import LowRank
from tsv_exp.merging import layer_map

pytestmark = pytest.mark.gpu
COPIES = 3
OF_BITS = ("dare", "dare_ties")  # what these drop depends on the bits of the deltas, so not on float64's


def models(tasks=3, dtype=torch.float32, large=(130, 96)):
    """A base and models with three layers of every shape, some of them large enough for the fast decompositions."""
    base, finetuned = {}, {f"task{t}": {} for t in range(tasks)}
    g = torch.Generator().manual_seed(1)
    for copy in range(COPIES):
        start, ends = zoo(tasks, dtype, seed=copy)
        for tensors, own in zip((start, *ends.values()), (base, *finetuned.values()), strict=True):
            tensors["large.weight"] = matrix(*large, g, dtype=dtype)
            own |= {f"{copy}.{name}": tensor for name, tensor in tensors.items()}
    return base, finetuned


def double(weights):
    return {name: weight.double() if weight.is_floating_point() else weight for name, weight in weights.items()}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_merges_as_on_the_cpu(method):
    base, finetuned = models()
    found = merge(base, finetuned, method, device="cuda", moments=moments(base, 3))
    if method not in OF_BITS:
        base, finetuned = double(base), {task: double(model) for task, model in finetuned.items()}
    expected = merge(base, finetuned, method, moments=moments(base, 3))
    task = "task1" if found.per_task else None
    assert list(found.layers) == list(expected.layers)
    assert {tensor.device.type for tensor in found.vector(task).values()} == {"cpu"}, "where the base is"
    close(found.vector(task), expected.vector(task), 1e-3 if method == "ace" else 1e-4)


@pytest.mark.parametrize("method", ["tsv_m", "tsv_c", "ties", "white_reg"])
def test_models_that_lie_on_the_gpu_are_merged_there(method):
    base, finetuned = models()
    expected = merge(base, finetuned, method, device="cuda")
    there = {task: {name: weight.cuda() for name, weight in model.items()} for task, model in finetuned.items()}
    found = merge({name: weight.cuda() for name, weight in base.items()}, there, method)
    task = "task1" if found.per_task else None
    assert all(tensor.is_cuda for tensor in found.vector(task).values())
    close({name: tensor.cpu() for name, tensor in found.vector(task).items()}, expected.vector(task), 1e-5)


@pytest.mark.parametrize("method", ["tsv_m", "iso_reg", "ties"])
def test_a_batch_that_is_copied_during_the_computation_of_another_changes_nothing(monkeypatch, method):
    tall = (1024, 384)  # large enough that copies and kernels overlap
    base = {f"{i}.weight": torch.zeros(tall) for i in range(24)}
    g = torch.Generator().manual_seed(2)
    finetuned = {
        f"task{t}": {name: weight + matrix(*tall, g, dtype=torch.float32) for name, weight in base.items()}
        for t in range(2)
    }
    expected = merge(base, finetuned, method, device="cuda").vector()
    one = 2 * 2 * 4 * tall[0] * tall[1]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2 * one * layer_map._SHARE, 1 << 40))
    for _ in range(5):
        close(merge(base, finetuned, method, device="cuda").vector(), expected, 1e-5)


@pytest.mark.parametrize("method", ["tsv_m", "task_arithmetic"])
def test_factors_that_are_copied_during_the_computation_of_others_change_nothing(monkeypatch, method):
    g = torch.Generator().manual_seed(0)
    names = [f"{i}.weight" for i in range(24)]
    base = {name: torch.randn(512, 384, generator=g) for name in names}

    class Adapter(dict):
        """Weights that know their factors."""

        def factors(self, name, dtype):
            return self.known[name]

        def delta(self, name, dtype):
            return self.known[name].dense()

        def inputs_first(self, name):
            raise NotImplementedError

        def sliced(self, name, index):
            raise NotImplementedError

    def adapter():
        found = Adapter(base)
        found.known = {
            name: LowRank(torch.randn(512, 8, generator=g), torch.ones(8), torch.randn(8, 384, generator=g))
            for name in names
        }
        return found

    finetuned = {f"task{t}": adapter() for t in range(3)}
    expected = merge(base, finetuned, method).vector()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2 * 6 * 4 * 512 * 384 * layer_map._SHARE, 1 << 40))
    for _ in range(5):
        close(merge(base, finetuned, method, device="cuda").vector(), expected, 1e-4)


def test_half_precision_and_stacks_of_matrices():
    g = torch.Generator().manual_seed(0)
    base = {"experts": torch.zeros(4, 40, 30, dtype=torch.bfloat16), "w": torch.zeros(130, 96, dtype=torch.bfloat16)}
    finetuned = {
        f"task{t}": {
            "experts": torch.stack([matrix(40, 30, g) for _ in range(4)]).bfloat16(),
            "w": matrix(130, 96, g).bfloat16(),
        }
        for t in range(3)
    }
    engine = Engine(stacks=["experts"])
    wide = {task: double(model) for task, model in finetuned.items()}
    expected = merge(double(base), wide, "tsv_m", engine=engine).vector()
    close(merge(base, finetuned, "tsv_m", engine=engine, device="cuda").vector(), expected, 1e-4)


def test_decompositions_are_kept_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    base, finetuned = models()
    for cache in ("memory", "disk"):
        first = merge(base, finetuned, "tsv_m", engine=Engine(cache=cache), device="cuda")
        again = merge(base, finetuned, "tsv_m", engine=Engine(cache=cache), device="cuda")
        assert first.fallbacks["decompositions"] > again.fallbacks["decompositions"]
        close(again.vector(), first.vector(), 1e-6)


def test_a_value_that_is_not_finite_is_named():
    base, finetuned = models()
    finetuned["task1"]["1.square.weight"][2, 3] = torch.nan
    with pytest.raises(UserError, match=r"1\.square\.weight.*task1|task1.*1\.square\.weight"):
        merge(base, finetuned, "tsv_m", device="cuda")


def test_a_function_of_ones_own_fails_as_on_the_cpu(tmp_path: Path):
    base, finetuned = models()
    mine = Method.from_config({"name": "mine", "_target_": "torch.amax", "dim": 0, "alpha": {"default": 0.5}})
    close(
        merge(base, finetuned, mine, device="cuda").vector(),
        merge(double(base), {task: double(model) for task, model in finetuned.items()}, mine).vector(),
        1e-6,
    )
    wrong = Method.from_config({"name": "wrong", "_target_": "torch.amax", "alpha": {"default": 0.5}})
    with pytest.raises(UserError, match="wrong"):
        merge(base, finetuned, wrong, device="cuda")
    assert set(SHAPES) <= {name.split(".", 1)[1] for name in base}
