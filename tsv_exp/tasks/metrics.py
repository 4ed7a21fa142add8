"""The metrics of tasks and their sampling variances, computed by scikit-learn and scipy."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tsv_exp.errors import UserError


@dataclass(frozen=True)
class Metric:
    """A metric: `measure` takes predictions and labels (N,); `variance` takes its value and N and is approximate.

    `mean`: whether its value is the share of the examples whose prediction is right.

    Correlations are in [-1, 1], other metrics in [0, 1].
    """

    measure: Callable[[Tensor, Tensor], float]
    variance: Callable[[float, int], float]
    mean: bool = False


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """The fraction of predictions that equal their label."""
    return int((predictions == labels).sum()) / len(labels)


def f1(predictions: Tensor, labels: Tensor) -> float:
    """F1 of class 1 (GLUE: MRPC, QQP); 0 if that class neither occurs nor is predicted."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels.numpy() == 1, predictions.numpy() == 1, zero_division=0.0))


def f1_macro(predictions: Tensor, labels: Tensor) -> float:
    """F1 averaged over the classes."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels.numpy(), predictions.numpy(), average="macro", zero_division=0.0))


def matthews(predictions: Tensor, labels: Tensor) -> float:
    """Matthews correlation (GLUE: CoLA); 0 if only one class is predicted."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels.numpy(), predictions.numpy()))


def pearson(predictions: Tensor, labels: Tensor) -> float:
    """Pearson correlation (GLUE: STS-B); 0 where all predictions or all labels are the same."""
    from scipy.stats import pearsonr

    return float(pearsonr(predictions.double(), labels.double()).statistic) if _vary(predictions, labels) else 0.0


def spearman(predictions: Tensor, labels: Tensor) -> float:
    """Spearman correlation (GLUE: STS-B); 0 where all predictions or all labels are the same."""
    from scipy.stats import spearmanr

    return float(spearmanr(predictions.double(), labels.double()).statistic) if _vary(predictions, labels) else 0.0


def metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        UserError: there is none.
    """
    if name not in METRICS:
        raise UserError(f"metric={name}: choose from: {', '.join(METRICS)}")
    return METRICS[name]


def _vary(*values: Tensor) -> bool:
    return all(bool((value != value[0]).any()) for value in values)


def _binomial(value: float, count: int) -> float:
    return value * (1 - value) / count


def _correlation(value: float, count: int) -> float:
    """Fisher's large-sample variance of a correlation, (1 - r²)² / (N - 1)."""
    return (1 - value**2) ** 2 / max(count - 1, 1)


METRICS = {
    "accuracy": Metric(accuracy, _binomial, mean=True),
    "exact_match": Metric(
        accuracy, _binomial, mean=True
    ),  # for texts: the class with this text, or -1 if there is none
    "f1": Metric(f1, _binomial),
    "f1_macro": Metric(f1_macro, _binomial),
    "matthews": Metric(matthews, _correlation),
    "pearson": Metric(pearson, _correlation),
    "spearman": Metric(spearman, _correlation),
}
