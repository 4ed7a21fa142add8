"""Models that are the base's architecture and are not named or stored as it is."""

import numpy as np
import pytest
import torch
from models import close, same, zoo
from torch import nn

from tsv_exp import UserError, apply, merge
from tsv_exp.config import Engine


def tied(dtype=torch.float32):
    """A base and models with an output head that is the embedding."""
    base, finetuned = zoo(2, dtype)
    for model in (base, *finetuned.values()):
        model["head.weight"] = model["tall.weight"].clone()
    return base, finetuned


def without(weights, *names):
    return {name: weight for name, weight in weights.items() if name not in names}


def test_prefixes():
    base, finetuned = zoo(2)
    wrapped = {task: {f"module.{name}": weight for name, weight in model.items()} for task, model in finetuned.items()}
    same(apply(base, merge(base, wrapped)), apply(base, merge(base, finetuned)))


def test_tied_weights_that_one_side_lacks():
    base, finetuned = tied()
    expected = apply(base, merge(base, finetuned, "task_arithmetic"))
    mixed = {"task0": without(finetuned["task0"], "head.weight"), "task1": without(finetuned["task1"], "tall.weight")}
    same(apply(base, merge(base, mixed, "task_arithmetic")), expected)
    short = without(base, "head.weight")
    same(apply(short, merge(short, finetuned, "task_arithmetic")), without(expected, "head.weight"))


def test_the_base_has_one_of_two_tied_weights_and_a_model_the_other():
    base, finetuned = zoo(2)
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    for model in (base, *finetuned.values()):
        model[embedding] = model.pop("tall.weight")
    expected = apply(base, merge(base, finetuned))
    renamed = {task: without(model, embedding) | {head: model[embedding]} for task, model in finetuned.items()}
    same(apply(base, merge(base, renamed)), expected)
    other = without(base, embedding) | {head: base[embedding]}
    same(apply(other, merge(other, finetuned)), without(expected, embedding) | {head: expected[embedding]})
    renamed["task0"][head] = torch.ones(3, 2)
    with pytest.raises(UserError, match=r"lacks the tensor 'model.embed_tokens.weight'"):
        merge(base, renamed)


def test_weights_that_are_not_tied_any_more_are_named():
    base, finetuned = tied()
    changed = finetuned["task0"] | {"head.weight": base["tall.weight"] + 1}
    with pytest.raises(UserError, match=r"'head.weight' that the base lacks.*ignore=\['head.weight'\]"):
        merge(without(base, "head.weight"), {"a": changed})


def test_tensors_without_a_partner_are_not_compared_with_all_others(monkeypatch):
    compared = []
    monkeypatch.setattr("tsv_exp.merging.inputs.alignment.torch.equal", lambda *pair: compared.append(pair))
    base = {f"a.{i}.weight": torch.randn(4, 4) for i in range(150)} | {"s.weight": torch.eye(4).to_sparse()}
    model = {name.replace("a.1", "b.1"): weight + 1 for name, weight in base.items() if name != "s.weight"}
    with pytest.raises(UserError, match="sparse"):
        merge(base, {"a": model})
    del base["s.weight"]
    with pytest.raises(UserError, match=r"lacks the tensor 'a.1.weight' and 60 more"):
        merge(base, {"a": model})
    assert not compared


def test_weights_that_are_equal_by_chance_are_not_tied():
    base, finetuned = zoo(1, torch.float32)
    for model in (base, finetuned["task0"]):
        model |= {"fresh.a": torch.zeros(4, 4), "fresh.b": torch.zeros(4, 4)}
    with pytest.raises(UserError, match=r"lacks the tensor 'fresh.a'"):
        merge(base, {"task0": without(finetuned["task0"], "fresh.a")})
    with pytest.raises(UserError, match=r"'fresh.b' that the base lacks"):
        merge(without(base, "fresh.b"), finetuned)


def test_keep_and_ignore():
    base, finetuned = zoo(2)
    heads = {
        task: model | {"norm.bias": torch.ones(3 + i), "score": torch.ones(2, 2)}
        for i, (task, model) in enumerate(finetuned.items())
    }
    with pytest.raises(UserError, match=r"'score' that the base lacks; \"ignore=\['score'\]\" leaves it out"):
        merge(base, heads)
    with pytest.raises(
        UserError,
        match=r"'norm.bias' has shape \(3,\) in model 'task0'.*\"keep=\['norm.bias'\]\" takes the base's values$",
    ):
        merge(base, heads, engine=Engine(ignore=["sco*"]))
    found = apply(base, merge(base, heads, "ties", engine=Engine(ignore=["sco*"], keep=["norm.*"])))
    rest = without(base, "norm.bias")
    expected = merge(rest, {task: without(model, "norm.bias") for task, model in finetuned.items()}, "ties")
    same(found, apply(rest, expected) | {"norm.bias": base["norm.bias"]})
    lacking = {task: without(model, "norm.bias") for task, model in finetuned.items()}
    same(
        apply(base, merge(base, lacking, "dare_ties", engine=Engine(keep=["norm.*"]))),
        apply(base, merge(base, lacking, "dare_ties", engine=Engine(keep=["norm.bias"]))),
    )


def test_modules_arrays_and_values_that_are_no_tensors():
    torch.manual_seed(0)
    base, a, b = (nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6)) for _ in range(3))
    states = {"a": a.state_dict(), "b": b.state_dict()}
    expected = apply(base.state_dict(), merge(base.state_dict(), states))
    same(apply(base, merge(base, {"a": a, "b": b})), expected)
    arrays = {name: value.numpy() for name, value in states["a"].items()} | {"epoch": 3, "_extra_state": None}
    same(apply(base, merge(base, {"a": arrays, "b": b})), expected)
    assert isinstance(arrays["0.weight"], np.ndarray)
    trained = base.state_dict() | dict(base.named_parameters()), a.state_dict(keep_vars=True)
    found = apply(trained[0], merge(trained[0], {"a": trained[1], "b": b}))  # weights that require gradients
    same(found, expected)
    assert not any(weight.requires_grad for weight in found.values())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"w": torch.ones(2, 2).to_sparse()}, "'w' of model 'a' is sparse; convert it"),
        ({"w": torch.ones(2, 2, device="meta")}, "'w' of model 'a' is without data"),
        ({"w": torch.ones(2, 2, dtype=torch.complex64)}, "'w' of model 'a' is complex; .*keep"),
        ({"w": torch.ones(2, 2, dtype=torch.int8)}, "'w' of model 'a' holds integers"),
        (
            {"w.base_layer": torch.ones(2, 2), "w.lora_A.default.weight": torch.ones(1, 2)},
            "holds LoRA factors .*unload",
        ),
        ({"w": {"inner": torch.ones(2, 2)}}, "'w' is a dict, not a tensor"),
        ({"epoch": 3}, "model 'a' holds no tensor"),
        ({}, "model 'a' holds no tensor"),
        ([1], "model 'a' is a list"),
        ({"w": np.array(["x"])}, "'w' is an array of"),
    ],
)
def test_what_cannot_be_merged_is_named(model, message):
    with pytest.raises(UserError, match=message):
        merge({"w": torch.zeros(2, 2)}, {"a": model})


def test_a_nested_tensor_is_named():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(2)], layout=torch.jagged)  # loads for a second
    with pytest.raises(UserError, match="is nested; convert"):
        merge({"w": torch.zeros(2, 2)}, {"a": {"w": nested}})


def test_arrays_of_other_byte_orders_and_strides():
    base, other = np.arange(6, dtype=">f4").reshape(2, 3), np.ones((2, 3), np.float32)[::-1]
    fixed = np.full((2, 3), 3.0, np.float32)
    fixed.flags.writeable = False
    for given in (base, other, fixed):
        merged = merge({"w": np.zeros((2, 3), np.float32)}, {"a": {"w": given}}, "task_arithmetic")
        np.testing.assert_array_equal(merged.vector()["w"].numpy(), given)


def test_an_empty_base_and_a_complex_one():
    for base, message in (({}, "the base holds no tensor"), ({"n": torch.ones(2).long()}, "no floating-point tensor")):
        with pytest.raises(UserError, match=message):
            merge(base, {"a": base or {"w": torch.ones(1)}})
    base = {"w": torch.zeros(2, 2), "c": torch.ones(2, dtype=torch.complex64)}
    with pytest.raises(UserError, match="'c' of the base is complex"):
        merge(base, {"a": base})
    kept = apply(base, merge(base, {"a": base | {"w": torch.ones(2, 2)}}, "task_arithmetic", engine=Engine(keep=["c"])))
    assert kept["c"].is_complex()
    assert torch.equal(kept["w"], torch.ones(2, 2))


def test_all_shapes_are_seen_before_the_first_layer():
    base, finetuned = zoo(2)
    odd = finetuned["task1"] | {"scale": torch.ones(2), "norm.bias": torch.ones(3)}
    with pytest.raises(UserError, match=r"'norm.bias' and 1 more has shape .* 'task1'"):
        merge(base, {"task0": finetuned["task0"], "task1": odd})


@pytest.mark.parametrize("method", ["tsv_m", "ties", "weight_average"])
def test_infinite_entries_that_no_model_changes(method):
    base, finetuned = zoo(2, torch.float32)
    mask = torch.full((9, 9), -torch.inf).triu(1)
    for model in (base, *finetuned.values()):
        model["mask"] = torch.zeros(9, 9)
    expected = apply(base, merge(base, finetuned, method))
    for model in (base, *finetuned.values()):
        model["mask"] = mask.clone()
    same(apply(base, merge(base, finetuned, method)), expected | {"mask": mask})
    finetuned["task1"]["mask"][0, 3] = 0
    with pytest.raises(UserError, match="'mask' of the base"):
        merge(base, finetuned, method)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_weights(dtype):
    base, finetuned = zoo(3, torch.float32)
    small = [
        {name: weight.to(dtype) if weight.is_floating_point() else weight for name, weight in model.items()}
        for model in (base, *finetuned.values())
    ]
    wide = [
        {name: weight.float() if weight.is_floating_point() else weight for name, weight in model.items()}
        for model in small
    ]
    for method in ("tsv_m", "ties"):
        found = merge(small[0], dict(zip(finetuned, small[1:], strict=True)), method)
        expected = merge(wide[0], dict(zip(finetuned, wide[1:], strict=True)), method)
        close(found.vector(), {name: weight.double() for name, weight in expected.vector().items()}, 1e-6)
        assert apply(small[0], found)["tall.weight"].dtype == dtype


def test_an_empty_matrix():
    base, finetuned = zoo(2, torch.float32)
    for model in (base, *finetuned.values()):
        model["none.weight"] = torch.zeros(0, 16)
    for method in ("tsv_m", "ties", "iso_c", "tsv_c"):
        merged = merge(base, finetuned, method)
        assert apply(base, merged, 1.0, "task0" if merged.per_task else None)["none.weight"].shape == (0, 16)
