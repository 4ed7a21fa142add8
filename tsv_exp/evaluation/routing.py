"""Methods with a model per task and an unknown task: a router chooses model and head of every example."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tsv_exp.config import Engine
from tsv_exp.data.examples import VALUES
from tsv_exp.decompositions.build import build_algebra
from tsv_exp.errors import UserError
from tsv_exp.evaluation.alpha import mean
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.merging.engine import Merged
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.routing.router import FittedRouter, Router, fit
from tsv_exp.routing.tokens import PROBES, padding_mask
from tsv_exp.runtime.console import track
from tsv_exp.runtime.devices import map_tensors
from tsv_exp.tasks.metrics import metric
from tsv_exp.tasks.task import SplitName

log = logging.getLogger(__name__)

ELSEWHERE = -1  # prediction of an example that another task's head answers


@dataclass(frozen=True)
class Oracle:
    """A router that knows the task of every example: the reference for all others."""

    name: ClassVar[str] = "oracle"


@dataclass(frozen=True)
class RoutingResult:
    """The outcome of routing the test examples of every task.

    Attributes:
        accuracy: task -> accuracy (a fraction, or the task's metric) of the chosen model with the chosen head. An
            answer of another task's head is wrong.
        correct: task -> which examples (N,) are right.
        own_head: task -> accuracy of the chosen model with the task's own head.
        told: task -> accuracy of the task's own model and head.
        confusion: task -> chosen task -> share of the task's examples.
        layers: which the router reads.
        stored_bytes: what must be stored for it.
        seconds: to fit it, and to choose the tasks of all examples.
    """

    accuracy: dict[str, float]
    correct: dict[str, NDArray[np.bool_]]
    own_head: dict[str, float]
    told: dict[str, float]
    confusion: dict[str, dict[str, float]]
    layers: tuple[str, ...]
    stored_bytes: int
    seconds: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """Plain values, as stored in results.json."""
        share = {task: chosen[task] for task, chosen in self.confusion.items()}
        measured = {"routed": share, "own_head": self.own_head, "told": self.told}
        return {
            **{name: {"accuracy": value, "mean_accuracy": mean(value)} for name, value in measured.items()},
            "confusion": self.confusion,
            "layers": list(self.layers),
            "stored_bytes": self.stored_bytes,
            "seconds": self.seconds,
        }


def check_router(router: Router | Oracle, per_task: bool, method: str, metrics: Mapping[str, str]) -> None:
    """Check that a router can be used.

    Args:
        router: the router.
        per_task: whether the method gives a model per task.
        method: its name.
        metrics: task -> metric.

    Raises:
        UserError: the method gives a single model, or a task's answers are values, which no other head can give.
    """
    if not per_task:
        raise UserError(
            f"router={router.name}: method={method} gives one model for all tasks; choose a method with a model per "
            "task (tsv_c, tall_mask, emr, individual), or router=none"
        )
    values = [task for task, name in metrics.items() if name in VALUES]
    if values:
        raise UserError(
            f"router={router.name}: the answers of task {values[0]} are values, not classes; leave it out, or give "
            "router=none"
        )


def route_tasks(
    router: Router | Oracle, evaluator: Evaluator, merged: Merged, alpha: float, stream: TaskVectors, engine: Engine
) -> RoutingResult:
    """Choose a task for every test example by one pass of the base model, and predict with that task's model and head.

    Raises:
        UserError: the router's layers are not the model's.
    """
    start = time.perf_counter()
    fitted = None if isinstance(router, Oracle) else fitted_router(router, evaluator, stream, engine)
    ready = time.perf_counter()
    routes = {task: route(fitted, evaluator, task, "test") for task in track(evaluator.tasks, f"router {router.name}")}
    end = time.perf_counter()
    predictions = chosen_predictions(evaluator, merged, alpha, routes)
    names = list(evaluator.tasks)
    right, own, correct = {}, {}, {}
    for index, task in enumerate(names):
        labels, here = evaluator.labels(task, "test"), routes[task] == index
        answered = torch.where(here, predictions[task], ELSEWHERE)
        measure = metric(evaluator.tasks[task].metric).measure
        right[task], own[task] = measure(answered, labels), measure(predictions[task], labels)
        correct[task] = (answered == labels).numpy()
    return RoutingResult(
        accuracy=right,
        correct=correct,
        own_head=own,
        told=evaluator.accuracies(merged, alpha, "test"),
        confusion={
            task: dict(
                zip(names, (routes[task].bincount(minlength=len(names)) / len(routes[task])).tolist(), strict=True)
            )
            for task in names
        },
        layers=tuple(fitted.layers) if fitted else (),
        stored_bytes=fitted.stored_bytes if fitted else 0,
        seconds={"fit": ready - start, "route": end - ready},
    )


def fitted_router(router: Router, evaluator: Evaluator, stream: TaskVectors, engine: Engine) -> FittedRouter:
    """The router of these task vectors, ready for the evaluator's encoder; chooses a layer on validation if needed."""
    fitted = fit(router, stream, build_algebra(engine, stream.compute_device), evaluator.encoder).to(evaluator.device)
    first = next(iter(evaluator.tasks))

    def probe(network: nn.Module, batch: Any) -> Tensor:
        def run() -> Tensor:  # tensors of inference mode have no gradients
            return evaluator.model.first_pass(network, map_tensors(torch.clone, batch), evaluator.tasks[first])

        fitted.prepare(network, run, padding_mask(batch))
        return torch.zeros(1)

    evaluator.by_base(probe, first, "test", PROBES)
    if not router.undecided:
        return fitted
    best = best_layer(fitted, evaluator)
    log.info("router %s: layer %s routes best on validation", router.name, best)
    return fitted.decided(best)


def best_layer(fitted: FittedRouter, evaluator: Evaluator) -> str:
    """The layer with the highest routing accuracy on validation, averaged over tasks; on ties the first one."""
    names = list(fitted.supports)
    right = torch.zeros(len(names), dtype=torch.float64)
    for index, task in enumerate(track(evaluator.tasks, f"router {fitted.router.name}: choosing a layer")):

        def chosen(network: nn.Module, batch: Any, task: str = task) -> Tensor:
            run = partial(evaluator.model.first_pass, network, batch, evaluator.tasks[task])
            scores = fitted.layer_scores(network, run, padding_mask(batch))
            return torch.stack([scores[name].argmax(1) for name in names], 1)

        right += (evaluator.by_base(chosen, task, "validation") == index).double().mean(0)
    return names[int(right.argmax())]


def route(fitted: FittedRouter | None, evaluator: Evaluator, task: str, split: SplitName) -> Tensor:
    """The index (N,) of the task that is chosen for each example of a task; without a router its own."""
    if fitted is None:
        return torch.full((len(evaluator.labels(task, split)),), list(evaluator.tasks).index(task))

    def chosen(network: nn.Module, batch: Any) -> Tensor:
        run = partial(evaluator.model.first_pass, network, batch, evaluator.tasks[task])
        return fitted.scores(network, run, padding_mask(batch)).argmax(1)

    return evaluator.by_base(chosen, task, split)


def chosen_predictions(
    evaluator: Evaluator, merged: Merged, alpha: float, routes: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Task -> predictions (N,) of its test examples with its own head, each by the model of the chosen task.

    Every model is loaded once, for all examples that are routed to it.
    """
    found = {task: torch.full((len(chosen),), ELSEWHERE) for task, chosen in routes.items()}
    for index, model_of in enumerate(track(evaluator.tasks, "models of the chosen tasks")):
        for task, chosen in routes.items():
            rows = (chosen == index).nonzero().flatten()
            if len(rows):
                found[task][rows] = evaluator.predictions(merged, alpha, model_of, task, "test", rows)
    return found
