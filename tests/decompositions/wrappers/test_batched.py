from collections import Counter
from functools import partial
from threading import Event

import pytest
import torch
from models import close, zoo

from tsv_exp import UserError, merge
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.decompositions.fast import FastAlgebra
from tsv_exp.decompositions.wrappers.batched import BatchedAlgebra
from tsv_exp.decompositions.wrappers.cached import CachedAlgebra, FactorCache
from tsv_exp.merging import engine
from tsv_exp.merging.layer_map import map_layers
from tsv_exp.merging.task_vectors import TaskVectors


class Batches(ExactAlgebra):
    """The exact algebra, counting what it is asked for."""

    def __init__(self):
        self.seen = Counter()

    def truncated_svd(self, matrices, k):
        self.seen["svd", tuple(matrices.shape)] += 1
        return ExactAlgebra.truncated_svd(matrices, k)

    def polar(self, matrices):
        self.seen["polar", tuple(matrices.shape)] += 1
        return ExactAlgebra.polar(matrices)


def matrices(count, *shape):
    return list(torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)))


def test_what_jobs_ask_for_side_by_side_is_one_batch_of_each_shape():
    batches = Batches()
    gathered = BatchedAlgebra(batches)
    square, wide = matrices(3, 5, 5), matrices(2, 4, 6)
    found = gathered.run([partial(gathered.polar, x) for x in square + wide])
    for x, got in zip(square + wide, found, strict=True):
        torch.testing.assert_close(got, ExactAlgebra.polar(x))
    assert batches.seen == {("polar", (3, 5, 5)): 1, ("polar", (2, 4, 6)): 1}
    gathered.polar(square[0])
    assert batches.seen["polar", (5, 5)] == 1, "alone, outside of a run, it is answered at once"


def test_jobs_may_ask_several_times_or_never_and_for_different_things():
    batches = Batches()
    gathered = BatchedAlgebra(batches)
    a, b, c = matrices(3, 3, 6, 4)

    def both(x):
        return gathered.polar(gathered.truncated_svd(x, 2).u)

    found = gathered.run([partial(both, a), lambda: None, partial(both, b), partial(gathered.truncated_svd, c, 3)])
    assert found[1] is None
    torch.testing.assert_close(found[2], ExactAlgebra.polar(ExactAlgebra.truncated_svd(b, 2).u))
    torch.testing.assert_close(found[3].s, ExactAlgebra.truncated_svd(c, 3).s)
    assert batches.seen == {("svd", (2, 3, 6, 4)): 1, ("svd", (1, 3, 6, 4)): 1, ("polar", (2, 3, 6, 2)): 1}


def test_an_error_reaches_who_asked_and_holds_up_nobody():
    class Broken(ExactAlgebra):
        @staticmethod
        def polar(matrices):
            raise UserError("no polar factor today")

    gathered = BatchedAlgebra(Broken())
    finished = Event()

    def survivor():
        with pytest.raises(UserError, match="today"):
            gathered.polar(torch.ones(2, 2))
        finished.set()

    def fails():
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        gathered.run([survivor, fails])
    assert finished.is_set()
    assert gathered.run([lambda: 1]) == [1], "and the next run is not harmed"


def alike(tasks, dtype=torch.float64):
    """A base and models with three layers of each shape."""
    base, finetuned = zoo(tasks, dtype)
    pick = [(name, i) for name in base if base[name].is_floating_point() for i in range(3)]

    def tripled(weights, offset):
        return {
            f"{i}.{name}": weights[name] + (offset * torch.randn(weights[name].shape, generator=g)) for name, i in pick
        }

    g = torch.Generator().manual_seed(1)
    return tripled(base, 0), {task: tripled(model, 0.01) for task, model in finetuned.items()}


@pytest.mark.parametrize("method", ["tsv_m", "tsv_c", "iso_reg", "iso_cts", "knots_ties", "ties", "weight_average"])
@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [
        (ExactAlgebra, torch.float64, 1e-9),
        (FastAlgebra, torch.float32, 1e-4),
        (lambda: CachedAlgebra(ExactAlgebra(), "exact", FactorCache()), torch.float64, 1e-9),
    ],
)
def test_every_method_merges_as_it_does_layer_by_layer(monkeypatch, method, kind, dtype, tolerance):
    base, finetuned = alike(3, dtype)
    expected = merge(base, finetuned, method)
    monkeypatch.setattr(engine, "build_algebra", lambda *_: BatchedAlgebra(kind()))
    found = merge(base, finetuned, method)
    task = "task1" if found.per_task else None
    assert list(found.layers) == list(base)
    close(found.vector(task), expected.vector(task), tolerance)


def test_layers_of_one_shape_are_decomposed_together_within_the_memory_there_is(monkeypatch):
    base, finetuned = alike(2)
    base, finetuned = ({n: w for n, w in m.items() if n.endswith("tall.weight")} for m in (base, finetuned["task0"]))
    stream = TaskVectors(base, {"a": finetuned, "b": finetuned})
    m, n = base["0.tall.weight"].shape
    counted = Batches()
    gathered = BatchedAlgebra(counted)
    for budget, batches in ((1 << 30, {3: 1}), (2 * 2 * 2 * m * n * 8, {2: 1, 1: 1})):
        monkeypatch.setattr("tsv_exp.merging.layer_map.BUDGET", budget)
        counted.seen.clear()
        list(map_layers(lambda layer: gathered.truncated_svd(layer.deltas, 2), stream, gathered))
        assert counted.seen == {("svd", (size, 2, m, n)): times for size, times in batches.items()}
