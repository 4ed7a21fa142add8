import pytest
import torch
from models import matrix

from tsv_exp import merge
from tsv_exp.evaluation.alpha.data_free import data_free_scale
from tsv_exp.layers import LowRank
from tsv_exp.merge_files.records.probes import estimate, probe, sample
from tsv_exp.merging.task_vectors import TaskVectors


@pytest.mark.parametrize("method", ["tsv_m", "weight_average", "iso_c"])
def test_about_the_data_free_scale(method):
    g = torch.Generator().manual_seed(0)
    base = {f"{i}.weight": torch.zeros(60, 90, dtype=torch.float64) for i in range(3)}
    models = {f"t{t}": {name: matrix(60, 90, g) for name in base} for t in range(4)}
    merged, vectors = merge(base, models, method), TaskVectors(base, models)
    found = estimate([probe(vectors.layer(name), merged.layers[name]) for name in base])
    assert found == pytest.approx(data_free_scale(merged, vectors), rel=0.15)


def test_factors_and_their_products_are_alike():
    g = torch.Generator().manual_seed(0)
    base = {"w": torch.zeros(20, 30)}
    u, vh = torch.randn(20, 2, generator=g), torch.randn(2, 30, generator=g)
    layer = TaskVectors(base, {"a": {"w": u @ vh}, "b": {"w": 2 * u @ vh}}).layer("w")
    merged = LowRank(u, torch.tensor([3.0, 1.0]), vh)
    assert probe(layer, merged) == pytest.approx(probe(layer, merged.dense()), rel=1e-4)


def test_nothing_that_responds_alike_has_no_scale():
    assert estimate([]) is None
    assert estimate([[1.0, 1.0, -1.0]]) is None
    assert estimate([[1.0, 0.0, 0.0]]) is None


def test_the_sample_is_the_same_every_time():
    names = [f"{i}.weight" for i in range(50)]
    assert sample(names) == sample(names[::-1])
    assert len(sample(names)) == 4
    assert sample(names[:2]) == set(names[:2])
