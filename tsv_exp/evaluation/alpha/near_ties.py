"""Near ties between values of α: those within one validation example of the best are compared in float32.

In half precision the last bits of a merge move single examples, so that they would decide.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from tsv_exp.evaluation.alpha.choice import Choice, Point, best
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.merging.known import Vectors
from tsv_exp.runtime.console import track

log = logging.getLogger(__name__)


def settle(
    choice: Choice, merged: Vectors, evaluator: Evaluator, reference: Callable[..., Mapping[str, float]]
) -> Choice:
    """The choice with the best of the nearly tied values in float32; on ties the smallest.

    Args:
        choice: with points over all validation examples, else it is returned as it is.
        merged: the model whose α is chosen.
        evaluator: of the points, in another number format than float32, else the choice is returned as it is.
        reference: split -> accuracies of the fine-tuned models.
    """
    if evaluator.dtype == torch.float32 or choice.passes is not None or len(choice.tried) < 2:
        return choice
    finetuned = reference("validation")
    close = near(choice.tried, one_example(finetuned, evaluator.counts("validation")))
    if len(close) < 2:
        return choice
    exact = [
        Point.of(alpha, evaluator.accuracies(merged, alpha, "validation", torch.float32), finetuned)
        for alpha in track(close, "comparing nearly tied α in float32")
    ]
    chosen = best(exact).alpha
    log.info(
        "%d values of α from %.3g to %.3g are within one validation example of the best; %.3g is the best in float32",
        len(close),
        close[0],
        close[-1],
        chosen,
    )
    return replace(choice, alpha=chosen, near_ties=exact)


def one_example(finetuned: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """How much one example can change the mean normalized accuracy: max_i 1 / (T · n_i · fine-tuned accuracy_i)."""
    return max((1 / (counts[task] * value) for task, value in finetuned.items() if value > 0), default=0) / len(counts)


def near(points: Sequence[Point], distance: float) -> list[float]:
    """The values of α whose mean normalized accuracy is within a distance of the best, in ascending order."""
    top = best(points).mean_normalized
    return sorted(point.alpha for point in points if top - point.mean_normalized <= distance * (1 + 1e-9))
