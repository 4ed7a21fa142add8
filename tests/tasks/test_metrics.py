"""Metrics against their textbook formulas in float64."""

import math

import pytest
import torch
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.tasks.metrics import METRICS, metric


def classes(count: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(count, (n,), generator=generator)
    wrong = torch.rand(n, generator=generator) < 0.4
    return torch.where(wrong, torch.randint(count, (n,), generator=generator), labels), labels


def table(predictions: Tensor, labels: Tensor) -> tuple[int, int, int, int]:
    p, t = predictions == 1, labels == 1
    return tuple(int(cells.sum()) for cells in (p & t, p & ~t, ~p & t, ~p & ~t))  # type: ignore[return-value]


def ranks(values: Tensor) -> Tensor:
    """Average ranks of equal values."""
    less = (values[None] < values[:, None]).sum(1)
    return less + ((values[None] == values[:, None]).sum(1) + 1).double() / 2


def correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_accuracy_is_the_share_of_right_ones() -> None:
    predictions, labels = classes(5, 333)
    assert metric("accuracy").measure(predictions, labels) == sum(
        p == t for p, t in zip(predictions.tolist(), labels.tolist(), strict=True)
    ) / len(labels)
    assert metric("exact_match").measure(torch.tensor([-1, 2, 0]), torch.tensor([0, 2, 0])) == 2 / 3


@pytest.mark.parametrize("seed", range(3))
def test_binary_metrics(seed: int) -> None:
    predictions, labels = classes(2, 200, seed)
    tp, fp, fn, tn = table(predictions, labels)
    assert metric("f1").measure(predictions, labels) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    phi = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert metric("matthews").measure(predictions, labels) == pytest.approx(phi)


def test_macro_f1_is_the_mean_over_classes() -> None:
    predictions, labels = classes(4, 300)
    each = [metric("f1").measure((predictions == c).long(), (labels == c).long()) for c in range(4)]
    assert metric("f1_macro").measure(predictions, labels) == pytest.approx(sum(each) / 4)


def test_correlations() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (5 * torch.rand(150, generator=generator)).mul(5).round() / 5  # with ties
    predictions = labels + torch.randn(150, generator=generator)
    assert metric("pearson").measure(predictions, labels) == pytest.approx(correlation(predictions, labels))
    assert metric("spearman").measure(predictions, labels) == pytest.approx(
        correlation(ranks(predictions), ranks(labels))
    )


@pytest.mark.parametrize("name", METRICS)
def test_what_says_nothing_is_worth_nothing(name: str) -> None:
    labels = torch.tensor([0, 1, 0, 1])
    constant = torch.full((4,), 2)
    assert metric(name).measure(constant, labels) == 0.0
    assert metric(name).measure(labels, labels) == pytest.approx(1.0)
    assert metric(name).variance(1.0, 4) == 0.0


@pytest.mark.parametrize(("name", "r"), [("pearson", 0.6), ("accuracy", 0.7)])
def test_variances_are_those_of_repeated_samples(name: str, r: float) -> None:
    n, values, generator = 200, [], torch.Generator().manual_seed(0)
    for _ in range(400):
        x, noise = torch.randn(2, n, generator=generator)
        if name == "pearson":
            pair = r * x + math.sqrt(1 - r**2) * noise, x
        else:
            pair = (torch.rand(n, generator=generator) < r).long(), torch.ones(n).long()
        values.append(metric(name).measure(*pair))
    assert metric(name).variance(r, n) == pytest.approx(torch.tensor(values).var().item(), rel=0.25)


def test_an_unknown_metric_is_one_line() -> None:
    with pytest.raises(UserError, match=r"metric=bleu: choose from: accuracy, exact_match, f1"):
        metric("bleu")
