import pytest
import torch
from models import zoo

from tsv_exp import UserError
from tsv_exp.decompositions.exact import ExactAlgebra
from tsv_exp.decompositions.wrappers.batched import BatchedAlgebra
from tsv_exp.decompositions.wrappers.cached import CachedAlgebra, FactorCache
from tsv_exp.merging import layer as layer_module
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.singular_vectors import tsv_m


class Known(dict):
    """Weights that know some of their deltas, as an adapter does."""

    def __init__(self, base, deltas):
        super().__init__(base)
        self.deltas = deltas

    def delta(self, name, dtype):
        return self.deltas.get(name)

    def factors(self, name, dtype):
        raise NotImplementedError

    def inputs_first(self, name):
        raise NotImplementedError

    def sliced(self, name, index):
        raise NotImplementedError


def test_layers_of_the_stream():
    base, finetuned = zoo(3, torch.bfloat16)
    stream = TaskVectors(base, finetuned)
    assert stream.tasks == ("task0", "task1", "task2")
    layers = {layer.name: layer for layer in stream}
    assert "position_ids" not in layers
    assert {name for name, layer in layers.items() if layer.matrix} == {
        "tall.weight", "wide.weight", "square.weight", "thin.weight", "frozen.weight",
    }  # fmt: skip
    for name, layer in layers.items():
        assert layer.deltas.dtype == torch.float32
        assert torch.equal(layer.deltas[2], finetuned["task2"][name].float() - base[name].float())
    assert [layer.name for layer in stream] == list(layers), "a second iteration gives the same"


def test_exclude_patterns():
    base, finetuned = zoo(1)
    stream = TaskVectors(base, finetuned, exclude=("*.weight",))
    assert [layer.name for layer in stream if layer.matrix] == ["text_projection"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("culprit", ["base", "task1"])
def test_values_that_are_not_finite_name_tensor_and_model(value, culprit):
    base, finetuned = zoo(2)
    (base if culprit == "base" else finetuned[culprit])["conv.weight"][0, 0, 0, 0] = value
    layer = TaskVectors(base, finetuned).layer("conv.weight")
    for read in (lambda: layer.deltas, lambda: list(layer.blocks())):
        with pytest.raises(UserError, match=rf"'conv.weight' of .*{culprit}"):
            read()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_are_the_deltas_of_every_layer_flattened(monkeypatch, dtype):
    monkeypatch.setattr(layer_module, "_BLOCK", 300)
    base, finetuned = zoo(3, dtype)
    base["scalar"] = torch.tensor(1.0, dtype=dtype)
    for number, model in enumerate(finetuned.values()):
        model["scalar"] = torch.tensor(number, dtype=dtype)
    for layer in TaskVectors(base, finetuned):
        blocks = list(layer.blocks())
        assert max(block.shape[1] for block in blocks) <= 100
        assert torch.equal(torch.cat(blocks, 1), layer.deltas.reshape(3, -1))


def test_blocks_of_models_that_know_their_deltas(monkeypatch):
    monkeypatch.setattr(layer_module, "_BLOCK", 300)
    base, finetuned = zoo(2, torch.float32)
    known = Known(base, {"tall.weight": torch.full((40, 24), 1e-12)})  # which the weights themselves do not hold
    stream = TaskVectors(base, finetuned | {"known": known})
    for name in ("tall.weight", "norm.bias"):
        blocks = torch.cat(list(stream.layer(name).blocks(2)), 1)
        assert torch.equal(blocks, stream.layer(name).deltas.reshape(3, -1)[:, ::2])
    assert (torch.cat(list(stream.layer("tall.weight").blocks()), 1)[2] == 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_only_decomposes_sees_one_task_at_a_time_and_finds_the_same(monkeypatch, dtype):
    stream = TaskVectors(*zoo(3, dtype))
    matrices = [layer for layer in stream if layer.matrix]
    expected = [tsv_m(layer.deltas, algebra=ExactAlgebra()) for layer in matrices]
    monkeypatch.setattr(TaskVectors, "_deltas", None)
    for layer, merged in zip(map(stream.layer, [layer.name for layer in matrices]), expected, strict=True):
        deltas, algebra = layer.to_decompose(ExactAlgebra())
        assert deltas.is_meta
        torch.testing.assert_close(tsv_m(deltas, algebra=algebra), merged, rtol=0, atol=0)


def test_an_algebra_that_gains_from_all_matrices_together_is_given_them():
    layer = next(layer for layer in TaskVectors(*zoo()) if layer.matrix)
    for algebra in (CachedAlgebra(ExactAlgebra(), "exact", FactorCache()), BatchedAlgebra(ExactAlgebra())):
        assert layer.to_decompose(algebra) == (layer.deltas, algebra)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"teacher.{i}.weight" for i in range(5)], r"ignore=\['teacher.\*'\]"),
        ([f"layers.{i}.rotary.inv_freq" for i in range(5)], r"ignore=\['layers.\*'\]"),
        ([f"tall.{i}.rotary.inv_freq" for i in range(5)], r"ignore=\['\*.rotary.inv_freq'\]"),
        (["head.weight", "head.bias"], r"ignore=\['head.weight', 'head.bias'\]"),
    ],
)
def test_many_extra_tensors_are_one_pattern(names, message):
    base, finetuned = zoo(1)
    extra = dict.fromkeys(names, base["norm.bias"])
    with pytest.raises(UserError, match=message):
        TaskVectors(base, {"a": finetuned["task0"] | extra})
    with pytest.raises(UserError, match=message.replace("ignore", "keep")):
        TaskVectors(base | extra, finetuned)


def test_models_of_another_architecture():
    base, finetuned = zoo(2)
    for model, message in (
        ({k: v for k, v in base.items() if k != "scale"}, "lacks the tensor 'scale'"),
        (base | {"extra": torch.ones(1)}, "'extra' that the base lacks"),
        (base | {"norm.bias": torch.ones(3)}, "'norm.bias' has shape"),
    ):
        with pytest.raises(UserError, match=message):
            list(TaskVectors(base, finetuned | {"odd": model}))
    without_buffer = {k: v for k, v in base.items() if k != "position_ids"}
    list(TaskVectors(base, {"old": without_buffer, "new": base | {"counter": torch.tensor(3)}}))
