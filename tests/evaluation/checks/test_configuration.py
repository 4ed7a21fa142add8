"""What is known to be wrong from a configuration alone."""

import math
import re
import sys
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from models import METHODS
from torch import Tensor

from tsv_exp.commands import exp as exp
from tsv_exp.config import conf_dir
from tsv_exp.errors import UserError
from tsv_exp.evaluation.checks.configuration import check_configuration
from tsv_exp.evaluation.checks.dry_run import dry_run
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.messages.failures import error_message


def check(*overrides: str, here: bool = True) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        check_configuration(compose("config", overrides=list(overrides)), here)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("seed=99999999999999999999", "seed=9+: give a number of at most 63 bits"),
        ("device=tpu", "device=tpu: no such device; choose auto, cpu or cuda:N"),
        ("evaluate.precision=int4", "precision=int4: choose from: auto, bfloat16, float16, float32"),
        ("evaluate.batch_size=0", "evaluate.batch_size=0: give a positive number, or null"),
        ("engine.svd=fancy", "engine.svd=fancy: choose from: auto, exact"),
        ("model.data.train=abc", "model.data.train='abc' does not fit; give a whole number"),
        ("model.data.test=0", "model.data.test=0: give at least 1"),
        ("model.finetune.lr=-1", "finetune.lr=-1: give a positive number"),
        ("model.finetune.trainable=proj", "model.finetune.trainable='proj' does not fit; give a list of texts"),
        ("+model.foo=1", "model: its keys do not fit .*TinyModel.*'foo'"),
        ("alpha.steps=x", "alpha.steps='x' does not fit; give a whole number"),
        ("tasks=99", "tasks=99: this model has 20 tasks"),
        ("method.rank_fraction=2", "rank_fraction=2: it is a share of the singular components"),
        ("router=likelihood", "router=likelihood: method=tsv_m gives one model for all tasks; choose a method"),
        ("tasks.digits.data=nowhere", "tasks.digits.data=nowhere: no such folder"),
        ("model.checkpoints=nowhere", "model.checkpoints=nowhere: no such folder"),
        ("model.base=nowhere", "model.base=nowhere: no such file"),
        ("model=vit_b_32 model.pretrained=./nowhere", "./nowhere: there is no such file or folder"),
        ("model=minilm model.pretrained=nowhere", "nowhere: there is no such file or folder"),
        ("model._target_=nope.Model", "model._target_=nope.Model: it cannot be imported"),
    ],
)
def test_a_wrong_value_is_named(typed: str, line: str) -> None:
    with pytest.raises((UserError, HydraException)) as raised:
        check(*typed.split())
    assert re.match(line, error_message(raised.value))


def test_what_is_right_passes_and_nothing_is_trained_or_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsv_exp.models.tiny.model.TinyModel.base", lambda self: pytest.fail("it is read"))
    check()
    check("model=vit_b_32", "tasks=20", "alpha=search", "tracking=none")
    for method in ("tsv_c", "tall_mask", "emr", "individual", "magnitude_mask"):
        check(f"method={method}", "router=likelihood")


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["router=likelihood", "router.epsilon=0"], "router.epsilon=0: give a positive number"),
        (
            ["router=likelihood", "+router.epsilo=1"],
            r"router: its keys do not fit .*: it has no 'epsilo'; did you mean epsilon\? it has: epsilon, ",
        ),
        (["router=likelihood", "router.epsilon=x"], "router.epsilon='x' does not fit; give a number"),
        (["router=mass", "router.token=last"], "router.token='last' does not fit; give first or mean"),
        (["router=likelihood", "router.rank_fraction=0"], "rank_fraction=0"),
        (["router=oracle", "method=ties"], "router=oracle: method=ties gives one model for all tasks"),
        (
            ["router=mass", "model=text2text", "tasks=[glue_cola,glue_stsb]"],
            "router=mass: the answers of task glue_stsb",
        ),
    ],
)
def test_a_wrong_router_is_named(typed: list[str], line: str) -> None:
    with pytest.raises((UserError, HydraException)) as raised:
        check("method=tsv_c", *typed)
    assert re.match(line, error_message(raised.value))


def test_a_method_that_needs_inputs_says_so() -> None:
    with pytest.raises(UserError, match="method regmean needs inputs; give inputs=validation, noise or other_tasks"):
        check("method=regmean")
    check("method=regmean", "inputs=noise")


def test_low_rank_fine_tuning_of_given_checkpoints_is_refused() -> None:
    with pytest.raises(UserError, match=r"finetune=lora: nothing is trained if model\.checkpoints is set"):
        check("finetune=lora", "model=vit_b_32")
    check("finetune=lora")


def test_devices_of_other_machines_are_not_looked_for() -> None:
    check("device=cuda:99", here=False)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_passes_on_any_number_of_tasks(method: str) -> None:
    for tasks in (1, 2, 20):
        dry_run(Method.load(method), tasks)


def fails(deltas: Tensor) -> Any:
    raise IndexError("too many")


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("fails", "method mine: its function fails on a small example, .*IndexError: too many"),
        ("math_sqrt", "method mine"),
    ],
)
def test_a_function_that_does_not_work_is_found(function: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("own_methods")
    module.fails, module.math_sqrt = fails, lambda deltas: math.sqrt(deltas)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_methods", module)
    with pytest.raises(UserError, match=line):
        dry_run(Method.from_config({"name": "mine", "_target_": f"own_methods.{function}"}), 3)


@pytest.mark.parametrize("method", ["tsv_m", "task_arithmetic", "ties"])
def test_steps_on_factors_get_adapters(method: str) -> None:
    steps = {"before": ["pico", "truncate"], "after": ["mean_norm"]}
    for tasks in (1, 2, 20):
        dry_run(Method.load(method).with_params(**steps), tasks)
    with pytest.raises(UserError, match=r"step pico, .*this step before others"):
        dry_run(Method.load(method).with_params(before=["truncate", "pico"]), 3)


def test_a_dry_run_leaves_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dry_run(Method.load("tsv_m"), 2)
    assert torch.equal(torch.rand(3), expected)
