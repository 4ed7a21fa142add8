"""Scores against a direct computation, on a linear encoder; number formats on the embedded benchmark."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from linear import CPU, TASKS, Linear
from torch import Tensor, nn
from torch.nn.functional import normalize as unit

from tsv_exp import apply, merge
from tsv_exp.errors import UserError
from tsv_exp.evaluation.evaluator import Evaluator
from tsv_exp.evaluation.reference import finetuned_accuracies
from tsv_exp.finetuning.training import Recipe
from tsv_exp.models.tiny.data import Data
from tsv_exp.models.tiny.model import TinyModel
from tsv_exp.runtime.devices import device_of, mixed
from tsv_exp.tasks.metrics import metric


class Crowded(Linear):
    """A device that runs out of memory: `full` knows when, by the number of the batch and its images."""

    def __init__(self, full: Callable[[int, int], bool]) -> None:
        super().__init__()
        self.full = full
        self.sizes: list[int] = []

    def encoder(self) -> nn.Module:
        module = super().encoder()
        module.register_forward_pre_hook(lambda _, inputs: self._take(len(inputs[0])))
        return module

    def _take(self, count: int) -> None:
        self.sizes.append(count)
        if self.full(len(self.sizes), count):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")


def direct(model: Linear, weights: Mapping[str, Tensor], task: str) -> float:
    features = model.images.flatten(1).double() / 255 @ weights["1.weight"].double().T + weights["1.bias"].double()
    return ((unit(features, dim=-1) @ model.heads[task].double().T).argmax(1) == model.labels).double().mean().item()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))


@pytest.mark.parametrize("method", ["task_arithmetic", "individual", "tsv_m", "tsv_c"])
def test_accuracies_are_those_of_the_applied_weights(method: str) -> None:
    model = Linear()
    evaluator = Evaluator(model, TASKS, CPU, "float32", batch_size=7)
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
    evaluator = Evaluator(model, TASKS, CPU, "float32")
    finetuned = model.finetuned(TASKS)
    first = finetuned_accuracies(evaluator, model.base(), finetuned, "test")
    assert first == pytest.approx({name: direct(model, weights, name) for name, weights in finetuned.items()})
    reads = model.reads
    again = Evaluator(model, TASKS, CPU, "float32")
    assert finetuned_accuracies(again, model.base(), finetuned, "test") == first
    assert model.reads == reads
    (tmp_path / "scores.sqlite").write_text("not a database " * 100, encoding="utf-8")
    with pytest.raises(UserError, match=r"scores\.sqlite"):
        finetuned_accuracies(again, model.base(), finetuned, "test")


@pytest.mark.parametrize("order", [["accuracy", "f1_macro", "f1"], ["f1", "accuracy", "f1_macro"]])
def test_every_metric_has_a_value_of_its_own(order: list[str]) -> None:
    model = Linear()
    merged = merge(model.base(), model.finetuned(TASKS), "task_arithmetic")
    found = {}
    for name in order:
        evaluator = Evaluator(model, [replace(TASKS[0], metric=name)], CPU, "float32")
        found[name] = evaluator.accuracies(merged, 0.7, "test")["a"]
        predicted = evaluator.predictions(merged, 0.7, "a", "a", "test", torch.arange(len(model.labels)))
        assert found[name] == metric(name).measure(predicted, model.labels)
    assert len(set(found.values())) == len(order)


def test_which_examples_are_right_is_kept_with_the_accuracy() -> None:
    model = Crowded(lambda *_: False)
    merged = merge(model.base(), model.finetuned(TASKS), "task_arithmetic")
    evaluator = Evaluator(model, TASKS, CPU, "float32", batch_size=16)
    weights = apply(model.base(), merged, 0.7)
    features = model.images.flatten(1).double() / 255 @ weights["1.weight"].double().T + weights["1.bias"].double()
    expected = (unit(features, dim=-1) @ model.heads["a"].double().T).argmax(1) == model.labels
    assert evaluator.correct(merged, 0.7, "a", "test").tolist() == expected.tolist()
    assert evaluator.accuracy(merged, 0.7, "a", "test") == expected.double().mean()
    again = Evaluator(model, TASKS, CPU, "float32", batch_size=16)
    assert again.correct(merged, 0.7, "a", "test").tolist() == expected.tolist()
    assert model.sizes == [16, 16, 8]


@pytest.mark.parametrize("wanted", ["gpu", "cuda:99", "mps"])
def test_devices_that_are_not_there(wanted: str) -> None:
    with pytest.raises(UserError, match="device="):
        device_of(wanted)


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(UserError, match="batch_size"):
        Evaluator(Linear(), TASKS, CPU, batch_size=0)


@pytest.mark.parametrize(
    ("full", "sizes"),
    [
        (lambda _, count: count > 5, [16, 8, *[4] * 20]),
        (lambda number, _: number == 3, [16, 16, 8, *[8] * 10]),  # half-way: what was counted counts no more
        (lambda _, __: False, [16, 16, 8, 16, 16, 8]),
    ],
)
def test_out_of_memory_goes_on_with_smaller_batches(
    full: Callable[[int, int], bool], sizes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    model = Crowded(full)
    evaluator = Evaluator(model, TASKS, CPU, "float32", batch_size=16)
    merged = merge(model.base(), model.finetuned(TASKS), "task_arithmetic")
    weights = apply(model.base(), merged, 0.7)
    assert evaluator.accuracies(merged, 0.7, "test") == pytest.approx(
        {task.name: direct(model, weights, task.name) for task in TASKS}
    )
    assert model.sizes == sizes
    halved = [size for size in (8, 4) if size >= evaluator.batch_size]
    assert caplog.messages == [f"out of memory on cpu: continuing with batches of {size}" for size in halved]


def takes_memory(_: int, count: int) -> bool:
    """64 MiB of the GPU for every example of a batch."""
    torch.empty(count << 26, dtype=torch.uint8, device="cuda")
    return False


@pytest.mark.gpu
def test_a_gpu_that_is_really_full(caplog: pytest.LogCaptureFixture) -> None:
    gpu, model = torch.device("cuda", 0), Crowded(takes_memory)
    merged = merge(model.base(), model.finetuned(TASKS), "task_arithmetic")
    weights = apply(model.base(), merged, 0.7)
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved(gpu) + 6 * (1 << 26)
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(gpu).total_memory, gpu)
    try:
        evaluator = Evaluator(model, TASKS, gpu, "float32", batch_size=16)
        found = evaluator.accuracies(merged, 0.7, "test")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    assert found == pytest.approx({task.name: direct(model, weights, task.name) for task in TASKS})
    assert evaluator.batch_size < 8
    halved = [size for size in (8, 4, 2, 1) if size >= evaluator.batch_size]
    assert caplog.messages == [f"out of memory on cuda:0: continuing with batches of {size}" for size in halved]


@pytest.mark.gpu
def test_a_gpu_predicts_as_the_cpu() -> None:
    model = TinyModel(Data(seed=2412, test=100), Recipe(lr=1e-3, steps=0))
    task = model.catalogue()["shapes"]
    merged = merge(model.base(), {"shapes": model.base()}, "weight_average")
    found = {}
    for device in (CPU, torch.device("cuda")):
        evaluator = Evaluator(model, [task], device, "float32")
        found[device.type] = evaluator.by_base(lambda encoder, batch: encoder(batch), "shapes", "test")
        accuracy = evaluator.accuracy(merged, 1.0, "shapes", "test")
        assert accuracy > 0.5
    torch.testing.assert_close(found["cuda"], found["cpu"], atol=1e-3, rtol=1e-3)
    assert Evaluator(model, [task], torch.device("cuda")).dtype in (torch.bfloat16, torch.float16)


def test_thirty_alphas_cost_thirty_passes() -> None:
    model = Crowded(lambda *_: False)
    evaluator = Evaluator(model, TASKS, CPU, "float32", batch_size=40)
    merged = merge(model.base(), model.finetuned(TASKS), "tsv_m")
    for _ in range(2):  # the second time they are known
        for step in range(1, 31):
            evaluator.accuracies(merged, 0.1 * step, "validation")
    assert model.sizes == [40] * 30 * len(TASKS)
    assert model.reads == len(TASKS)


def test_no_room_for_a_single_image() -> None:
    model = Crowded(lambda *_: True)
    evaluator = Evaluator(model, TASKS, CPU, "float32", batch_size=6)
    merged = merge(model.base(), model.finetuned(TASKS), "weight_average")
    with pytest.raises(UserError, match="cpu is out of memory with one example of a; choose another device="):
        evaluator.accuracies(merged, 1.0, "test")
    assert model.sizes == [6, 3, 1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_encoder_computes_in_the_format_that_is_asked_for(precision: str) -> None:
    model, found = Linear(), []
    evaluator = Evaluator(model, TASKS, CPU, precision)
    evaluator.encoder.register_forward_hook(lambda *call: found.append(call[-1].dtype))
    merged = merge(model.base(), model.finetuned(TASKS), "weight_average")
    accuracy = evaluator.accuracy(merged, 1.0, "a", "test")
    assert found == [getattr(torch, precision)]
    weights = apply(model.base(), merged)
    assert accuracy == pytest.approx(direct(model, weights, "a"), abs=0.03 if precision == "bfloat16" else 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_formats_predict_the_same(dtype: torch.dtype) -> None:
    """Wherever float32 is not itself of two minds: then accuracies over many images differ by next to nothing."""
    model = TinyModel(Data(seed=2412, test=100), Recipe(lr=1e-3, steps=0))
    encoder, task = model.encoder(), model.catalogue()["shapes"]
    split, head, logits = model.split(task, "test"), model.head(task), {}
    for format_ in (torch.float32, dtype):
        with torch.inference_mode(), mixed(format_, CPU):
            features = encoder(model.prepare(split.inputs, CPU))
        logits[format_] = unit(features.float(), dim=-1) @ head.T
    exact, other = logits[torch.float32], logits[dtype]
    assert (exact.argmax(1) == split.labels).double().mean() > 0.5  # far above chance: there is something to lose
    assert 0 < (other - exact).abs().max() < 0.1
    best = exact.topk(2).values
    clear = best[:, 0] - best[:, 1] > 0.1
    assert clear.double().mean() > 0.8
    assert torch.equal(other.argmax(1)[clear], exact.argmax(1)[clear])
