"""The defaults of a model, and models whose inputs, outputs and metrics are others than images and accuracy."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from linear import CPU, Linear
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

from tsv_exp import apply, merge
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.finetuning.training import Recipe, finetune
from tsv_exp.models.protocol import Model
from tsv_exp.runtime.devices import moved
from tsv_exp.tasks.metrics import metric
from tsv_exp.tasks.task import Split, SplitName, Task

WORDS, WIDTH = 20, 6
TASKS = [Task("topic", ("a", "b", "c"), (), metric="f1_macro"), Task("similarity", (), (), metric="spearman")]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))


def test_heads_that_a_pass_puts_on_its_device_serve_gradients() -> None:
    with torch.inference_mode():
        head = Linear()._placed_head(Linear().catalogue()["a"], torch.device("meta"))
    assert head.is_meta
    assert not head.is_inference()


class Bag(nn.Module):
    """Token numbers and a mask (B, L) -> the mean of embeddings (B, d)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        mask = batch["mask"][..., None]
        return self.dense((self.embedding(batch["ids"]) * mask).sum(1) / mask.sum(1))


class Sentences:
    """Sentences of several lengths, padded to the longest of a batch."""

    def __init__(self, count: int) -> None:
        g = torch.Generator().manual_seed(0)
        lengths = [1 + i % 7 for i in range(count)]
        self.rows = [torch.randint(WORDS, (length,), generator=g) for length in lengths]

    def __getitem__(self, index: slice | Tensor) -> dict[str, Tensor]:
        rows = self.rows[index] if isinstance(index, slice) else [self.rows[i] for i in index.tolist()]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
        return {"ids": ids, "mask": mask}


class Text(Model):
    """Trained heads per task: a classifier and a regression."""

    name = family = "text"
    exclude = ("embedding.*",)

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.start = Bag().state_dict()
        self.heads = {"topic": nn.Linear(WIDTH, 3), "similarity": nn.Linear(WIDTH, 1)}

    def catalogue(self) -> dict[str, Task]:
        return {task.name: task for task in TASKS}

    def encoder(self) -> nn.Module:
        module = Bag()
        module.load_state_dict(self.start)
        return module

    def split(self, task: Task, split: SplitName) -> Split:
        g = torch.Generator().manual_seed(1)
        labels = torch.randint(3, (60,), generator=g) if task.classes else torch.rand(60, generator=g)
        return Split(Sentences(60), labels)

    def base(self) -> Mapping[str, Tensor]:
        return self.start

    def finetuned(self, tasks: Sequence[Task]) -> dict[str, Mapping[str, Tensor]]:
        g = torch.Generator().manual_seed(2)
        return {task.name: {k: v + torch.randn(v.shape, generator=g) for k, v in self.start.items()} for task in tasks}

    def identity(self, task: Task) -> str:
        return task.name

    def logits(self, encoder: nn.Module, batch: Any, task: Task) -> Tensor:
        return self.heads[task.name](encoder(batch).float())

    def predict(self, encoder: nn.Module, batch: Any, task: Task) -> Tensor:
        logits = self.logits(encoder, batch, task)
        return logits.argmax(1) if task.classes else logits[:, 0]

    def loss(self, encoder: nn.Module, batch: Any, labels: Tensor, task: Task) -> Tensor:
        logits = self.logits(encoder, batch, task)
        return cross_entropy(logits, labels) if task.classes else mse_loss(logits[:, 0], labels)


def test_the_default_is_a_cosine_with_the_head() -> None:
    model = Linear()
    task, encoder = model.catalogue()["a"], model.encoder()
    batch = model.prepare(model.images, CPU)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits, features = model.logits(encoder, batch, task), encoder(batch).float()
    assert logits.dtype is torch.float32  # what comes behind the encoder is not rounded
    expected = normalize(features.double(), dim=-1) @ model.head(task).double().T
    assert torch.allclose(logits.double(), expected, atol=1e-5)
    assert torch.equal(model.predict(encoder, batch, task), model.logits(encoder, batch, task).argmax(1))


def test_what_a_model_lacks_is_named() -> None:
    class Nothing(Model):
        pass

    with pytest.raises(TypeError, match=r"abstract.*base.*encoder.*finetuned.*identity.*split"):
        Nothing()  # type: ignore[abstract]


def test_nested_inputs_are_moved() -> None:
    inputs = {"ids": torch.ones(2), "more": [torch.ones(1), (torch.zeros(1), "text")]}
    found = moved(inputs, torch.device("meta"))
    assert found["ids"].is_meta
    assert found["more"][0].is_meta
    assert found["more"][1][0].is_meta
    assert found["more"][1][1] == "text"


def test_other_inputs_heads_and_metrics_are_scored_alike() -> None:
    model = Text()
    evaluator = Evaluator(model, TASKS, CPU, "float32", batch_size=7)
    base, finetuned = model.base(), model.finetuned(TASKS)
    merged = merge(base, finetuned, "task_arithmetic")
    found = evaluator.accuracies(merged, 0.3, "test")
    encoder = model.encoder()
    encoder.load_state_dict(apply(base, merged, 0.3))
    for task in TASKS:
        split = model.split(task, "test")
        with torch.no_grad():
            expected = model.predict(encoder, split.inputs[:], task)
        assert found[task.name] == pytest.approx(metric(task.metric).measure(expected, split.labels))
        right = evaluator.correct(merged, 0.3, task.name, "test")
        if task.classes:
            assert right is not None
            assert right.tolist() == (expected == split.labels).tolist()
        else:
            assert right is None
    assert -1 <= found["similarity"] <= 1
    variances = evaluator.variances(found, "test")
    assert variances["similarity"] == pytest.approx((1 - found["similarity"] ** 2) ** 2 / 59)
    negative = [evaluator.accuracy(merged, alpha, "similarity", "test") for alpha in (0.0, 0.5, 1.0, -1.0, -2.0)]
    assert min(negative) < 0  # and is kept: a correlation may be
    again = Evaluator(model, TASKS, CPU, "float32")
    assert again.accuracy(merged, -2.0, "similarity", "test") == negative[-1]


def test_which_are_right_costs_no_second_pass() -> None:
    model, calls = Linear(), []
    evaluator = Evaluator(model, list(model.catalogue().values()), CPU, "float32", batch_size=40)
    evaluator.encoder.register_forward_hook(lambda *_: calls.append(1))
    merged = merge(model.base(), model.finetuned(list(model.catalogue().values())), "tsv_c")
    accuracy = evaluator.accuracies(merged, 1.0, "test")
    for task in accuracy:
        right = evaluator.correct(merged, 1.0, task, "test")
        assert right is not None
        assert right.mean() == pytest.approx(accuracy[task])
    assert len(calls) == len(accuracy)


@pytest.mark.parametrize("task", TASKS)
def test_any_inputs_and_losses_are_trained(task: Task) -> None:
    model = Text()
    encoder, losses = model.encoder(), []

    def loss(network: nn.Module, batch: Any, labels: Tensor) -> Tensor:
        losses.append(model.loss(network, batch, labels, task))
        return losses[-1]

    recipe = Recipe(lr=0.05, steps=40, batch_size=16, precision="float32")
    finetune(encoder, loss, model.prepare, model.split(task, "train"), recipe, 0)
    first, last = (sum(value.item() for value in part) for part in (losses[:5], losses[-5:]))
    assert last < 0.9 * first
    with torch.no_grad():
        split = model.split(task, "train")
        whole = partial(model.loss, batch=split.inputs[:], labels=split.labels, task=task)
        assert whole(encoder) < whole(model.encoder())
