"""α without data: the responses by their definition, and the invariances that make it a scale."""

import math

import pytest
import torch
from models import zoo
from textbook import is_matrix, task_vectors

from tsv_exp import merge
from tsv_exp.evaluation.alpha import Candidate
from tsv_exp.evaluation.alpha.data_free import DataFree, data_free_scale
from tsv_exp.merging.task_vectors import TaskVectors


def expected(base, finetuned, merged):
    own = theirs = common = 0
    for task, tau in zip(finetuned, task_vectors(base, finetuned), strict=True):
        vector = merged.vector(task)
        for name, delta in tau.items():
            if is_matrix(name, delta) and delta.any():
                d, m = delta / delta.norm(), vector[name].double()
                own += (delta @ d.T).norm() ** 2 + (d.T @ delta).norm() ** 2
                theirs += (m @ d.T).norm() ** 2 + (d.T @ m).norm() ** 2
                common += ((m @ d.T) * (delta @ d.T)).sum() + ((d.T @ m) * (d.T @ delta)).sum()
    equally_strong, least_squares = math.sqrt(own / theirs), common / theirs
    return math.sqrt(equally_strong * least_squares)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("method", ["iso_reg", "tsv_m", "tsv_c", "task_arithmetic", "emr"])
def test_the_definition(method, dtype, tolerance):
    base, finetuned = zoo(4, dtype)
    merged = merge(base, finetuned, method)
    found = data_free_scale(merged, TaskVectors(base, finetuned))
    assert found == pytest.approx(expected(base, finetuned, merged), rel=tolerance)


def test_a_model_s_own_vector_needs_no_scaling_and_a_mean_of_equals_neither():
    base, finetuned = zoo(3)
    assert data_free_scale(merge(base, finetuned, "individual"), TaskVectors(base, finetuned)) == pytest.approx(1)
    same = dict.fromkeys("abc", finetuned["task0"])
    vectors = TaskVectors(base, same)
    assert data_free_scale(merge(base, same, "weight_average"), vectors) == pytest.approx(1)
    assert data_free_scale(merge(base, same, "task_arithmetic"), vectors) == pytest.approx(1 / 3)


def test_what_does_not_respond_is_left_as_it_is():
    base, finetuned = zoo(2)
    assert data_free_scale(merge(base, finetuned, "zero_shot"), TaskVectors(base, finetuned)) == 1
    unchanged = {"a": base, "b": base}
    assert data_free_scale(merge(base, unchanged, "task_arithmetic"), TaskVectors(base, unchanged)) == 1


def test_the_policy_scores_nothing_and_states_its_limits(caplog):
    choice = DataFree().choose(Candidate(lambda alpha: pytest.fail("scored"), lambda: 0.7))
    assert (choice.alpha, list(choice.tried)) == (0.7, [])
    assert "α 0.7 was computed without data" in caplog.text
    assert "prefer alpha=search" in caplog.text
