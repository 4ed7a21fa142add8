"""What routing makes of accuracies, against a direct computation on a linear encoder."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from linear import CPU, TASKS, Linear
from torch import Tensor
from torch.nn.functional import normalize as unit

from tsv_exp import apply, merge
from tsv_exp.config import Engine
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.errors import UserError
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.evaluation.routing import Oracle, RoutingResult, check_router, route_tasks
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.routing.likelihood import Likelihood
from tsv_exp.routing.mass import Mass
from tsv_exp.routing.router import Router, fit
from tsv_exp.tasks.task import Split, SplitName, Task

NAMES = [task.name for task in TASKS]


class Own(Linear):
    """Every task has images of its own."""

    def split(self, task: Task, split: SplitName) -> Split:
        rows = torch.arange(25) if task.name == "a" else torch.arange(15, 40)
        return Split(self.images[rows], self.labels[rows])


@pytest.fixture(autouse=True)
def cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))


def routed(router: Router | Oracle, method: str = "tsv_c") -> tuple[Own, Any, RoutingResult]:
    model = Own()
    evaluator = Evaluator(model, TASKS, CPU, "float32", batch_size=7)
    base, finetuned = model.base(), model.finetuned(TASKS)
    merged = merge(base, finetuned, method)
    engine = Engine(svd="exact")
    return model, merged, route_tasks(router, evaluator, merged, 1.0, TaskVectors.of(base, finetuned, engine), engine)


def predictions(model: Linear, merged: Any, images: Tensor, model_of: str, head: str) -> Tensor:
    weights = apply(model.base(), merged, 1.0, model_of)
    features = images.flatten(1).double() / 255 @ weights["1.weight"].double().T + weights["1.bias"].double()
    return (unit(features, dim=-1) @ model.heads[head].double().T).argmax(1)


@pytest.mark.parametrize("method", ["tsv_c", "individual"])
@pytest.mark.parametrize(
    "router",
    [
        Likelihood(rank_fraction=1.0, narrowing=True),
        Likelihood(standardize=True, rank_fraction=0.4, narrowing=True),
        Mass(layer="1.weight"),
    ],
)
def test_every_figure_is_that_of_the_chosen_models(router: Router, method: str) -> None:
    model, merged, found = routed(router, method)
    stream = TaskVectors.of(model.base(), model.finetuned(TASKS), Engine())
    fitted = fit(router, stream, ExactAlgebra())
    told: dict[str, float] = {}
    for index, task in enumerate(TASKS):
        split = model.split(task, "test")
        inputs = split.inputs[:].flatten(1).float().unsqueeze(1) / 255  # type: ignore[union-attr]
        scores = router.layer_scores(inputs, torch.ones(len(inputs), 1), fitted.layers["1.weight"])
        chosen = scores.argmax(1)
        assert 0 < (chosen == 0).sum() < len(chosen), "both tasks should occur"
        by_model = torch.stack([predictions(model, merged, split.inputs[:], name, task.name) for name in NAMES])  # type: ignore[arg-type]
        own = by_model[chosen, torch.arange(len(chosen))] == split.labels
        assert found.own_head[task.name] == pytest.approx(own.double().mean().item())
        right = own & (chosen == index)
        assert found.accuracy[task.name] == pytest.approx(right.double().mean().item())
        assert found.correct[task.name].tolist() == right.tolist()
        told[task.name] = (by_model[index] == split.labels).double().mean().item()
        for other, name in enumerate(NAMES):
            assert found.confusion[task.name][name] == pytest.approx((chosen == other).double().mean().item())
    assert found.told == pytest.approx(told)
    plain = found.plain()
    assert plain["routed"]["accuracy"] == {name: found.confusion[name][name] for name in NAMES}
    assert plain["told"]["mean_accuracy"] == pytest.approx(sum(told.values()) / 2)
    assert plain["layers"] == ["1.weight"]
    assert plain["stored_bytes"] == fitted.stored_bytes
    assert set(plain["seconds"]) == {"fit", "route"}


def test_an_oracle_is_always_right() -> None:
    _, _, found = routed(Oracle())
    assert found.accuracy == found.own_head == found.told
    assert found.confusion == {"a": {"a": 1, "b": 0}, "b": {"a": 0, "b": 1}}
    assert (found.layers, found.stored_bytes) == ((), 0)


def test_mass_reads_the_layer_that_routes_best_on_validation() -> None:
    _, _, found = routed(Mass())
    assert found.layers == ("1.weight",)


@pytest.mark.parametrize(
    ("per_task", "metrics", "words"),
    [
        (
            False,
            {},
            "router=likelihood: method=tsv_m gives one model for all tasks; choose a method with a model per task",
        ),
        (True, {"a": "accuracy", "b": "spearman"}, "the answers of task b are values, not classes"),
    ],
)
def test_what_cannot_be_routed_is_refused(per_task: bool, metrics: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_router(Likelihood(), per_task, "tsv_m", metrics)
    check_router(Likelihood(), True, "tsv_c", {"a": "accuracy", "b": "matthews"})


class Metric(Own):
    def tasks(self) -> Sequence[Task]:
        return [Task("a", ("x", "y", "z"), ("{}",), {}, "f1_macro"), TASKS[1]]


def test_an_answer_of_another_head_is_no_class_for_other_metrics() -> None:
    model = Metric()
    evaluator = Evaluator(model, model.tasks(), CPU, "float32")
    merged = merge(model.base(), model.finetuned(TASKS), "individual")
    engine = Engine(svd="exact")
    stream = TaskVectors.of(model.base(), model.finetuned(TASKS), engine)
    found = route_tasks(Likelihood(narrowing=True), evaluator, merged, 1.0, stream, engine)
    assert found.accuracy["a"] < found.own_head["a"]
