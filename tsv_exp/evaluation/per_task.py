"""The choice of a parameter for each task by its own model on validation, such as λ of masks."""

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tsv_exp.evaluation.alpha import Policy
from tsv_exp.evaluation.alpha.inference import inferred
from tsv_exp.evaluation.alpha.race import Race
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.merging.known import Vectors
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.console import bar, track

log = logging.getLogger(__name__)

MergedAt = Callable[[int], Vectors]  # the number of a value -> the merge with it, which has a model for each task


class Tuned(NamedTuple):
    """A method with the values that were `chosen`, as parameter -> task -> value.

    `passes`: predictions that this took, in multiples of the validation examples.
    """

    method: Method
    chosen: dict[str, dict[str, float]]
    passes: float


def choose_per_task(
    method: Method, evaluator: Evaluator, merge_by: Callable[[Method], Vectors], policy: Policy
) -> Tuned:
    """The method with the per-task parameter values of best validation accuracy; on ties the smallest value.

    Where the policy races α, predictions of values between two others are inferred as in a race.
    """
    if method.tune is None:
        return Tuned(method, {}, 0.0)
    values = sorted(method.tune.values)
    tuners, name = [method.tuner(value) for value in values], method.tune.parameter.rstrip("_")
    raced = (
        isinstance(policy, Race) and evaluator.counts_examples and policy.races(evaluator.counts("validation").values())
    )
    accuracy, passes = (raced_accuracies if raced else accuracies)(
        len(values), lambda index: merge_by(tuners[index]), evaluator, f"choosing {name} on validation"
    )
    chosen = {task: values[int(np.argmax(found))] for task, found in accuracy.items()}
    return Tuned(method.tuned(list(chosen.values())), {name: chosen}, passes)


def accuracies(values: int, merged: MergedAt, evaluator: Evaluator, doing: str) -> tuple[dict[str, list[float]], float]:
    """Task -> accuracy of its own model at each value, and the passes that this takes."""
    found = [evaluator.accuracies(merged(value), 1.0, "validation") for value in track(range(values), doing)]
    return {task: [one[task] for one in found] for task in evaluator.tasks}, float(values)


def raced_accuracies(
    values: int, merged: MergedAt, evaluator: Evaluator, doing: str
) -> tuple[dict[str, NDArray[np.float64]], float]:
    """The same from fewer predictions: two values that classify an example alike tell how those between them do."""
    labels = {task: evaluator.labels(task, "validation").numpy() for task in evaluator.tasks}
    ends = np.cumsum([len(own) for own in labels.values()])
    owner = dict(zip(labels, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))

    with bar(doing, 3 * ends[-1]) as (progress, done):

        def predict(value: int, asked: NDArray[np.int64]) -> NDArray[np.int64]:
            found, model = np.empty_like(asked), merged(value)
            for task, own in owner.items():
                if (here := np.isin(asked, own, assume_unique=True)).any():
                    rows = torch.from_numpy(asked[here] - own[0])
                    found[here] = evaluator.predictions(model, 1.0, task, task, "validation", rows).numpy()
            progress.advance(done, len(asked))
            return found

        found, asked = inferred(values, int(ends[-1]), predict)
    passes = asked / int(ends[-1])
    log.info("%s took %.1f passes", doing, passes)
    return {task: (found[:, own] == labels[task]).mean(1) for task, own in owner.items()}, passes
