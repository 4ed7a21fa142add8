"""Scores against a direct computation, on a linear encoder."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit

from tsv_exp import apply, merge
from tsv_exp.errors import UserError
from tsv_exp.evaluate import Evaluator, device_of
from tsv_exp.reference import finetuned_accuracies
from tsv_exp.tasks import Split, SplitName, Task

SHAPE = (3, 2, 2)
TASKS = [Task(name, ("x", "y", "z"), ("{}",)) for name in ("a", "b")]


class Linear:
    """A model in the sense of tsv_exp.models, small enough to compute by hand."""

    name = family = "linear"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        self.module.load_state_dict(
            {k: torch.randn(v.shape, generator=generator) for k, v in self.module.state_dict().items()}
        )
        self.heads = {task.name: torch.randn(3, 5, generator=generator) for task in TASKS}
        self.images = torch.randint(256, (40, *SHAPE), generator=generator, dtype=torch.uint8)
        self.labels = torch.randint(3, (40,), generator=generator)
        self.reads = 0

    def catalogue(self) -> dict[str, Task]:
        return {task.name: task for task in TASKS}

    def encoder(self) -> nn.Module:
        module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        module.load_state_dict(self.base())
        return module

    def normalize(self, images: Tensor) -> Tensor:
        return images.float() / 255

    def head(self, task: Task) -> Tensor:
        return self.heads[task.name]

    def split(self, task: Task, split: SplitName) -> Split:
        self.reads += 1
        return Split(self.images, self.labels)

    def base(self) -> Mapping[str, Tensor]:
        return self.module.state_dict()

    def finetuned(self, tasks: Sequence[Task]) -> dict[str, Mapping[str, Tensor]]:
        return {
            task.name: {
                k: v + torch.randn(v.shape, generator=torch.Generator().manual_seed(i)) for k, v in self.base().items()
            }
            for i, task in enumerate(tasks)
        }

    def identity(self, task: Task) -> str:
        return task.name


def direct(model: Linear, weights: Mapping[str, Tensor], task: str) -> float:
    features = model.images.flatten(1).double() / 255 @ weights["1.weight"].double().T + weights["1.bias"].double()
    return ((unit(features, dim=-1) @ model.heads[task].double().T).argmax(1) == model.labels).double().mean().item()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))


@pytest.mark.parametrize("method", ["task_arithmetic", "individual", "tsv_m", "tsv_c"])
def test_accuracies_are_those_of_the_applied_weights(method: str) -> None:
    model = Linear()
    evaluator = Evaluator(model, TASKS, torch.device("cpu"), "float32", batch_size=7)
    base, finetuned = model.base(), model.finetuned(TASKS)
    merged = merge(base, finetuned, method)
    for alpha in (0.0, 0.5, 1.3, 0.5):
        found = evaluator.accuracies(merged, alpha, "test")
        for task in finetuned:
            weights = apply(base, merged, alpha, task if merged.per_task else None)
            assert found[task] == pytest.approx(direct(model, weights, task))
    assert model.reads == len(TASKS)  # prepared once, scored many times


def test_accuracies_are_measured_once(tmp_path) -> None:
    model = Linear()
    evaluator = Evaluator(model, TASKS, torch.device("cpu"), "float32")
    finetuned = model.finetuned(TASKS)
    first = finetuned_accuracies(evaluator, model.base(), finetuned, "test")
    assert first == pytest.approx({name: direct(model, weights, name) for name, weights in finetuned.items()})
    reads = model.reads
    again = Evaluator(model, TASKS, torch.device("cpu"), "float32")
    assert finetuned_accuracies(again, model.base(), finetuned, "test") == first
    assert model.reads == reads
    (tmp_path / "scores.sqlite").write_text("not a database " * 100, encoding="utf-8")
    with pytest.raises(UserError, match=r"scores\.sqlite"):
        finetuned_accuracies(again, model.base(), finetuned, "test")


@pytest.mark.parametrize("wanted", ["gpu", "cuda:99", "mps"])
def test_devices_that_are_not_there(wanted: str) -> None:
    with pytest.raises(UserError, match="device="):
        device_of(wanted)


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(UserError, match="batch_size"):
        Evaluator(Linear(), TASKS, torch.device("cpu"), batch_size=0)
