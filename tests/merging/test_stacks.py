"""A 3-D parameter that is a stack of matrices is merged as these matrices are."""

import pytest
import torch
from models import matrix

from tsv_exp import apply, merge
from tsv_exp.config import Engine
from tsv_exp.decompositions.fast import FastAlgebra
from tsv_exp.decompositions.wrappers.batched import BatchedAlgebra
from tsv_exp.merging.layer_map import map_layers
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification.method import Method

NAME = "layers.0.experts.down_proj"


def experts(tasks=3, count=4):
    g = torch.Generator().manual_seed(0)
    base = {NAME: torch.randn(count, 20, 14, generator=g), "router": torch.randn(count, generator=g)}
    finetuned = {
        f"t{t}": {
            NAME: base[NAME] + torch.stack([matrix(20, 14, g, dtype=torch.float32) for _ in range(count)]),
            "router": base["router"] + 1,
        }
        for t in range(tasks)
    }
    return base, finetuned


def separate(weights):
    return {f"{i}": weight for i, weight in enumerate(weights[NAME])} | {"router": weights["router"]}


@pytest.mark.parametrize("method", ["tsv_m", "tsv_c", "iso_c", "iso_cts", "knots_ties", "ties", "tall_mask"])
def test_each_matrix_is_merged_as_one(method):
    base, finetuned = experts()
    found = merge(base, finetuned, method)
    expected = merge(separate(base), {task: separate(model) for task, model in finetuned.items()}, method)
    task = "t1" if found.per_task else None
    got, wanted = apply(base, found, 1.0, task), apply(separate(base), expected, 1.0, task)
    if method == "knots_ties":  # its statistics are of matrices only, and a stack is none
        return
    torch.testing.assert_close(got[NAME], torch.stack([wanted[str(i)] for i in range(4)]), rtol=1e-5, atol=1e-5)
    assert torch.equal(got["router"], wanted["router"])
    assert found.stored_bytes_without_base == expected.stored_bytes_without_base


def test_batches_of_layers():
    base, finetuned = experts()
    stream = TaskVectors.of(base, finetuned, Engine())
    method, algebra = Method.load("tsv_m"), BatchedAlgebra(FastAlgebra())
    found = map_layers(method.bind(stream, algebra), stream, algebra)
    for layer, expected in zip(found, merge(base, finetuned).layers.values(), strict=True):
        torch.testing.assert_close(layer, expected, rtol=1e-5, atol=1e-5)


def test_which_parameters_are_stacks():
    base, finetuned = experts()
    average = merge(base, finetuned, "weight_average").vector()[NAME]
    assert torch.equal(merge(base, finetuned, engine=Engine(stacks=[])).vector()[NAME], average)
    assert torch.equal(merge(base, finetuned, engine=Engine(exclude=["*experts*"])).vector()[NAME], average)
    assert not torch.allclose(merge(base, finetuned).vector()[NAME], average, rtol=0.1)
