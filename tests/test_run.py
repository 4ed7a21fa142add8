"""What a run makes of accuracies, against figures computed by hand."""

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

from tsv_exp import run
from tsv_exp.tracking.protocol import OpenRun


def test_averages_and_standard_errors() -> None:
    found = run.tested({"a": 0.8, "b": 0.5}, {"a": 1.0, "b": 0.5}, {"a": 0.16 / 400, "b": 0.25 / 100})
    assert found["accuracy"] == {"a": 0.8, "b": 0.5}
    assert found["normalized"] == {"a": 0.8, "b": 1.0}
    assert found["mean_accuracy"] == pytest.approx(0.65)
    assert found["mean_normalized"] == pytest.approx(0.9)
    variances = 0.8 * 0.2 / 400, 0.5 * 0.5 / 100
    assert found["standard_error"] == pytest.approx(math.sqrt(sum(variances)) / 2)
    assert found["standard_error_normalized"] == pytest.approx(math.sqrt(variances[0] + variances[1] / 0.25) / 2)


def test_a_task_that_no_model_gets_right_counts_as_nothing() -> None:
    found = run.tested({"a": 0.1}, {"a": 0.0}, {"a": 0.009})
    assert (found["mean_normalized"], found["standard_error_normalized"]) == (0.0, 0.0)


def test_stages_add_up_also_where_one_fails() -> None:
    clock = run.Clock()
    for _ in range(2):
        with suppress(ValueError), clock("merge"):
            time.sleep(0.01)
            raise ValueError
    assert clock.seconds["merge"] >= 0.02
    assert clock.seconds["load"] == clock.seconds["select"] == clock.seconds["test"] == 0


def test_seconds_of_a_stage_inside_another_count_once() -> None:
    clock = run.Clock()
    began = time.perf_counter()
    with clock("select"):
        time.sleep(0.01)
        with clock("merge"):
            time.sleep(0.02)
        with clock("merge"):
            time.sleep(0.02)
    assert clock.seconds["merge"] >= 0.04
    assert 0.01 <= clock.seconds["select"] <= time.perf_counter() - began - clock.seconds["merge"]


@pytest.fixture
def formats() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.usefixtures("formats")
def test_tf32_is_off_unless_asked_for(tmp_path: Path) -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    for asked, expected in (("highest", False), ("high", True)):
        torch.set_float32_matmul_precision(asked)
        torch.backends.cudnn.allow_tf32 = True  # torch's default
        with pytest.raises(ConfigAttributeError):
            run.run(OmegaConf.create({"seed": 0}), tmp_path, OpenRun())
        assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is expected
