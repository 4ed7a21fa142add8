"""The benchmark of merge speed: both procedures do the same work, and its stages add up."""

import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from merge_speed import EXCLUDED, Stages, models, reference

from tsv_exp import merge
from tsv_exp.config import Engine


def test_both_procedures_treat_alike_what_is_no_matrix():
    base, finetuned = models(tasks=2, blocks=0, kind="zoo")
    expected = reference(base, finetuned, torch.float32)
    torch.testing.assert_close(merge(base, finetuned, engine=Engine(exclude=EXCLUDED)).vector(), expected)


def test_stages_are_counted_once_and_add_up():
    def work(seconds):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    def outer():
        work(0.02)
        module.inner()

    module = SimpleNamespace(inner=lambda: work(0.04), outer=outer)
    stages, start = Stages(), time.thread_time()
    with ExitStack() as stack:
        stages.watch(stack, module, ("inner", "outer"))
        module.outer()
        module.inner()
    work(0.02)
    shares = stages.shares(time.thread_time() - start, runs=2)
    assert {name: share["cpu_seconds"] for name, share in shares.items()} == {
        "inner": pytest.approx(0.04, abs=0.004),
        "outer": pytest.approx(0.01, abs=0.004),
        "other": pytest.approx(0.01, abs=0.004),
    }
    assert sum(share["percent"] for share in shares.values()) == pytest.approx(100)
