"""What a method may return, and the one line for anything else."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from models import zoo
from torch import Tensor

from tsv_exp import Method, UserError, merge
from tsv_exp.layers import LowRank, Masked
from tsv_exp.merging.layer import entrywise
from tsv_exp.merging.results import checks

SHAPE, ONE = (3, 4, 5), (4, 5)
returned: Callable[[Tensor], Any] = lambda deltas: deltas.sum(0)  # noqa: E731  (each test sets its own)


def mine(deltas: Tensor) -> Any:
    """A method of a user's own."""
    return returned(deltas)


@entrywise
def mine_by_entry(deltas: Tensor) -> Any:
    """The same, of a block of entries."""
    return returned(deltas)


def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in a configuration are names of functions in this file, which is no importable module."""
    monkeypatch.setattr("tsv_exp.methods.specification.functions.resolve_name", lambda path: globals()[path])
    monkeypatch.setattr("tsv_exp.methods.specification.functions._check_permitted", lambda *_: None)


def no_state(stream: object) -> None:
    """A prepare that forgets its return."""


def checked(result: Any) -> Any:
    return checks.check_result(result, torch.Size(SHAPE), {"cpu"}, "mine", "layer.0")


@pytest.mark.parametrize(
    "result",
    [
        torch.zeros(ONE),
        torch.zeros(SHAPE),
        torch.zeros(ONE, dtype=torch.bfloat16),
        torch.full(ONE, 3e38),  # its sum overflows, its entries are finite
        LowRank(torch.zeros(4, 2), torch.zeros(2), torch.zeros(2, 5)),
        LowRank(torch.zeros(3, 4, 2), torch.zeros(3, 2), torch.zeros(3, 2, 5)),
        LowRank(torch.zeros(4, 0), torch.zeros(0), torch.zeros(0, 5)),
        Masked(torch.zeros(ONE), torch.zeros(SHAPE, dtype=torch.bool)),
        Masked(torch.zeros(ONE), torch.zeros(SHAPE, dtype=torch.bool), torch.ones(3)),
    ],
)
def test_what_may_come_comes_through_untouched(result: Any) -> None:
    assert checked(result) is result


@pytest.mark.parametrize(
    ("result", "came"),
    [
        (
            None,
            "NoneType; it may return a tensor of shape (4, 5) (one model for all tasks) or (3, 4, 5) (one per task)",
        ),
        (np.zeros(ONE), "ndarray; it"),
        (1.0, "float; it"),
        (torch.zeros(()), "a tensor of shape ()"),
        (torch.zeros(5), "a tensor of shape (5,)"),
        (torch.zeros(5, 4), "a tensor of shape (5, 4)"),
        (torch.zeros(ONE, dtype=torch.int64), "numbers of type int64"),
        (torch.zeros(ONE, dtype=torch.complex64), "numbers of type complex64"),
        (torch.full(ONE, torch.nan), "NaN or infinite entries"),
        (torch.tensor([[torch.inf, -torch.inf, 0, 0, 0]] * 4), "NaN or infinite entries"),
        (torch.zeros(ONE, device="meta"), "a tensor on meta; it may return tensors on cpu"),
        (
            LowRank(torch.zeros(4, 2), torch.zeros(2), torch.zeros(5, 2)),
            "LowRank factors of shapes (4, 2), (2,), (5, 2)",
        ),
        (LowRank(torch.zeros(2, 4, 2), torch.zeros(2, 2), torch.zeros(2, 2, 5)), "LowRank factors"),
        (LowRank(torch.zeros(4, 2), None, torch.zeros(2, 5)), "LowRank factors of shapes (4, 2), NoneType"),
        (LowRank(torch.zeros(4, 2), torch.tensor([torch.nan, 1]), torch.zeros(2, 5)), "NaN"),
        (
            Masked(torch.zeros(ONE), torch.zeros(ONE, dtype=torch.bool)),
            "a Masked layer of shapes (4, 5), (4, 5), NoneType",
        ),
        (Masked(torch.zeros(ONE), torch.zeros(SHAPE)), "masks of type float32; it may return masks of type bool"),
        (Masked(torch.full(ONE, torch.nan), torch.zeros(SHAPE, dtype=torch.bool)), "NaN"),
    ],
)
def test_anything_else_is_one_line(result: Any, came: str) -> None:
    with pytest.raises(
        UserError, match=re.escape(f"method mine, layer 'layer.0': its function returned {came}")
    ) as error:
        checked(result)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("function", ["mine", "mine_by_entry"])
@pytest.mark.parametrize(
    ("wrong", "came"),
    [
        (lambda deltas: deltas.sum(), "a tensor of shape ()"),  # once merged, by broadcasting
        (lambda deltas: deltas.sum(0) / 0, "NaN or infinite entries"),
        (lambda deltas: None, "NoneType"),
        (lambda deltas: deltas.sum(0).numpy(), "ndarray"),
    ],
)
def test_no_wrong_function_makes_a_merge(
    function: str, wrong: Callable[[Tensor], Any], came: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.returned", wrong)
    named(monkeypatch)
    method = Method.from_config({"name": "own", "_target_": function})
    with pytest.raises(UserError, match=re.escape(f"method own, layer 'tall.weight': its function returned {came}")):
        merge(*zoo(3), method)


def test_a_prepare_that_returns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch)
    method = Method.from_config({"name": "own", "_target_": "mine", "prepare": "no_state"})
    with pytest.raises(UserError, match="method own: its prepare returned NoneType; it may return a mapping"):
        merge(*zoo(3), method)
