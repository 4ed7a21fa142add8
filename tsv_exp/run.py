"""The whole flow: checkpoints -> task vectors -> merge -> α on validation -> test, with the tasks known or routed."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tsv_exp import versions
from tsv_exp.api import merge
from tsv_exp.config import Engine
from tsv_exp.evaluation.alpha import Candidate, Examples, Point, Policy, mean, normalized, protocol
from tsv_exp.evaluation.alpha.data_free import data_free_scale
from tsv_exp.evaluation.alpha.near_ties import settle
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.evaluation.inputs import RunInputs, load_inputs
from tsv_exp.evaluation.moments import Inputs, Moments, moments_of_merged, second_moments
from tsv_exp.evaluation.per_task import choose_per_task
from tsv_exp.evaluation.routing import Oracle, route_tasks
from tsv_exp.merging.engine import Merged
from tsv_exp.merging.known import KnownMerge, Vectors
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification.method import Method
from tsv_exp.models.export import save_merged
from tsv_exp.routing.router import Router
from tsv_exp.runtime.provenance import machine, working_copy
from tsv_exp.storage.correct_examples import write_correct
from tsv_exp.storage.digests import digest
from tsv_exp.storage.named import module_digests
from tsv_exp.tracking.protocol import OpenRun


def run(cfg: DictConfig, folder: Path, tracked: OpenRun) -> dict[str, Any]:
    """One run of a configuration: returns the content of results.json.

    Writes to `folder` which test examples were classified correctly and, if configured, the merged model; reports
    stages and the α curve to `tracked`.

    Raises:
        UserError: something in the configuration, the checkpoints or the data is invalid.
    """
    torch.manual_seed(cfg.seed)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32  # convolutions use TF32 by default
    clock = Clock(tracked.stage)
    with clock("load"):
        method = Method.from_config(cfg.method)
        settings: Any = OmegaConf.to_container(cfg.engine, resolve=True)
        engine = Engine(**settings)
        policy: Policy = instantiate(cfg.alpha)
        router: Router | Oracle | None = instantiate(cfg.router, _convert_="all") if cfg.router else None
        inputs: Inputs | None = instantiate(cfg.inputs) if cfg.inputs else None
        loaded = load_inputs(cfg)
        model, base, finetuned, digests, evaluator, reference = loaded
        engine = engine.of(model.exclude)
        merged_by = partial(known_merge, cfg, loaded, engine, inputs, clock)
    with clock("select"):
        method, chosen, tuning_passes = choose_per_task(method, evaluator, merged_by, policy)
    vectors = partial(TaskVectors.of, base, finetuned, engine, evaluator.device)
    merged = merged_by(method)
    facts = merged.facts
    with clock("select"):
        choice = policy.choose(
            Candidate(
                lambda alpha: scored(alpha, merged, evaluator, reference, tracked),
                lambda: data_free_scale(merged.merged, vectors()),
                lambda: validation_examples(merged, evaluator, reference),
            )
        )
        choice = settle(choice, merged, evaluator, reference)
        if choice.passes is not None:  # all values were scored together
            for point in choice.tried:
                tracked.point(point.plain())
    with clock("test"):
        routed = (
            None if router is None else route_tasks(router, evaluator, merged.merged, choice.alpha, vectors(), engine)
        )
        correct = routed.correct if routed else evaluator.all_correct(merged, choice.alpha, "test")
        accuracy = routed.accuracy if routed else evaluator.accuracies(merged, choice.alpha, "test")
        if correct:
            write_correct(folder, correct)
        finetuned_accuracy = {
            "validation": reference("validation") if choice.tried or chosen else {},
            "test": reference("test"),
        }
    plain: Any = OmegaConf.to_container(cfg.engine, resolve=True)
    return {
        "tasks": list(evaluator.tasks),
        "checkpoints": {"family": model.family, "digests": dict(digests)},
        "checkpoint_bytes": facts.base_bytes,
        "data": {name: model.identity(task) for name, task in evaluator.tasks.items()},
        "precision": str(evaluator.dtype).removeprefix("torch."),
        "alpha_protocol": protocol(choice.policy or policy, method.alpha, choice.alpha),
        "per_task": facts.per_task,
        "alpha": choice.alpha,
        "chosen": {**chosen, "rank": dict(facts.rank)},
        "validation": [point.plain() for point in choice.tried],
        "validation_passes": len(choice.tried) if choice.passes is None else choice.passes,
        "tuning_passes": tuning_passes,
        "near_ties": [point.plain() for point in choice.near_ties],
        "finetuned": finetuned_accuracy,
        "metrics": {name: task.metric for name, task in evaluator.tasks.items()},
        "test": tested(accuracy, finetuned_accuracy["test"], evaluator.variances(accuracy, "test")),
        "routing": routed.plain() if routed else None,
        "saved": save_merged(model, evaluator.tasks, merged.merged, choice.alpha, folder) if cfg.save_merged else [],
        "provenance": {
            **machine(evaluator.device),
            "precision": str(evaluator.dtype).removeprefix("torch."),
            "engine": plain | {"exclude": list(engine.exclude or ())} | dict(facts.fallbacks),
            **working_copy(),
        },
        "seconds": clock.seconds,
        "stored_bytes": facts.stored_bytes + (routed.stored_bytes if routed else 0),
        "stored_bytes_without_base": facts.stored_bytes_without_base + (routed.stored_bytes if routed else 0),
    }


def known_merge(
    cfg: DictConfig, loaded: RunInputs, engine: Engine, inputs: Inputs | None, clock: "Clock", method: Method
) -> KnownMerge:
    """The merge by a method, made when its weights are needed."""
    _, base, finetuned, digests, evaluator, _ = loaded
    merge_by = partial(merge, method=method, engine=engine, device=evaluator.device)
    plain: Any = OmegaConf.to_container(cfg.method, resolve=True)
    code = [versions.program(), plain, module_digests(plain), method.params, method.tune is None]
    key = digest(code, cfg.seed, list(finetuned), digests, vars(engine), str(evaluator.device))

    def make() -> Merged:
        with clock("merge"):
            return merge_by(base, finetuned, moments=moments())

    def moments() -> Moments | None:
        if inputs is None or not method.takes_moments:
            return None
        if method.features == "own":
            return second_moments(inputs, evaluator, finetuned)
        vector = lambda base, finetuned, known: merge_by(base, finetuned, moments=known).vector()  # noqa: E731
        return moments_of_merged(inputs, evaluator, base, finetuned, vector)

    return KnownMerge(None if inputs else key, make)


def scored(
    alpha: float, merged: Vectors, evaluator: Evaluator, reference: Callable[..., dict[str, float]], tracked: OpenRun
) -> Point:
    """The validation accuracies of the merged model at α."""
    point = Point.of(alpha, evaluator.accuracies(merged, alpha, "validation"), reference("validation"))
    tracked.point(point.plain())
    return point


def validation_examples(
    merged: Vectors, evaluator: Evaluator, reference: Callable[..., dict[str, float]]
) -> Examples | None:
    """The validation examples with the merged model's predictions; None if a task's metric is no mean over them."""
    if not evaluator.counts_examples:
        return None
    return Examples(
        {task: evaluator.labels(task, "validation").numpy() for task in evaluator.tasks},
        reference("validation"),
        lambda alpha, task, rows: evaluator.predictions(
            merged, alpha, task, task, "validation", torch.from_numpy(rows)
        ).numpy(),
    )


def tested(
    accuracy: Mapping[str, float], finetuned: Mapping[str, float], variance: Mapping[str, float]
) -> dict[str, Any]:
    """Test accuracies (fractions), absolute and normalized; standard errors are of the average over its examples."""
    relative = normalized(accuracy, finetuned)
    scaled = {task: value / finetuned[task] ** 2 if finetuned[task] > 0 else 0.0 for task, value in variance.items()}
    return {
        "accuracy": dict(accuracy),
        "normalized": relative,
        "mean_accuracy": mean(accuracy),
        "mean_normalized": mean(relative),
        "standard_error": math.sqrt(math.fsum(variance.values())) / len(variance),
        "standard_error_normalized": math.sqrt(math.fsum(scaled.values())) / len(scaled),
    }


class Clock:
    """Seconds by stage; `with clock("merge"):` adds to that stage and calls `began` with its name.

    Inside another stage, the seconds count for the inner one only.
    """

    def __init__(self, began: Callable[[str], None] = lambda stage: None) -> None:
        self.began = began
        self.seconds = dict.fromkeys(("load", "merge", "select", "test"), 0.0)
        self._inside = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a block of one stage."""
        self.began(stage)
        start, before, self._inside = time.perf_counter(), self._inside, 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] += spent - self._inside
            self._inside = before + spent
