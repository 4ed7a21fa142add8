"""What a run makes of accuracies, against figures computed by hand."""

import math
import time
from contextlib import suppress

import pytest

from tsv_exp import run


def test_averages_and_standard_errors() -> None:
    found = run.tested({"a": 0.8, "b": 0.5}, {"a": 1.0, "b": 0.5}, {"a": 400, "b": 100})
    assert found["accuracy"] == {"a": 0.8, "b": 0.5}
    assert found["normalized"] == {"a": 0.8, "b": 1.0}
    assert found["mean_accuracy"] == pytest.approx(0.65)
    assert found["mean_normalized"] == pytest.approx(0.9)
    variances = 0.8 * 0.2 / 400, 0.5 * 0.5 / 100
    assert found["standard_error"] == pytest.approx(math.sqrt(sum(variances)) / 2)
    assert found["standard_error_normalized"] == pytest.approx(math.sqrt(variances[0] + variances[1] / 0.25) / 2)


def test_a_task_that_no_model_gets_right_counts_as_nothing() -> None:
    found = run.tested({"a": 0.1}, {"a": 0.0}, {"a": 10})
    assert (found["mean_normalized"], found["standard_error_normalized"]) == (0.0, 0.0)


def test_stages_add_up_also_where_one_fails() -> None:
    clock = run.Clock()
    for _ in range(2):
        with suppress(ValueError), clock("merge"):
            time.sleep(0.01)
            raise ValueError
    assert clock.seconds["merge"] >= 0.02
    assert clock.seconds["load"] == clock.seconds["select"] == clock.seconds["test"] == 0
