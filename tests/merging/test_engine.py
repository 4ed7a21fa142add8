import subprocess
import sys

import pytest
import torch
from models import METHODS, close, moments, zoo

from tsv_exp import Method, UserError, apply, interference, merge
from tsv_exp.config import Engine
from tsv_exp.decompositions import build


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_method_on_plain_state_dicts(method, dtype):
    base, finetuned = zoo(3, dtype)
    before = [{k: v.clone() for k, v in model.items()} for model in (base, *finetuned.values())]
    merged = merge(base, finetuned, method, moments=moments(base, 3))
    weights = apply(base, merged, 0.7, "task1")
    assert list(weights) == list(base)
    for name, weight in weights.items():
        assert (weight.dtype, weight.shape) == (base[name].dtype, base[name].shape)
        assert weight.data_ptr() != base[name].data_ptr()
    assert torch.equal(weights["position_ids"], base["position_ids"])
    assert torch.equal(weights["frozen.weight"], base["frozen.weight"])
    tau = merged.vector("task1")
    close(
        {k: v.double() for k, v in weights.items() if k in tau},
        {k: (base[k].float() + 0.7 * tau[k]).to(dtype).double() for k in tau},
        1e-6 if dtype == torch.float32 else 1e-2,
    )
    for old, new in zip(before, (base, *finetuned.values()), strict=True):
        assert all(torch.equal(old[k], new[k]) for k in old)
    again = apply(base, merge(base, finetuned, method, moments=moments(base, 3)), 0.7, "task1")
    assert all(torch.equal(weights[k], again[k]) for k in weights)


@pytest.mark.parametrize("method", METHODS)
def test_any_method_in_inference_mode(method):
    base, finetuned = zoo(3)
    expected = merge(base, finetuned, method, moments=moments(base, 3)).vector("task1")
    with torch.inference_mode():
        found = merge(base, finetuned, method, moments=moments(base, 3)).vector("task1")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("method", METHODS)
def test_any_method_with_another_default_dtype(method):
    base, finetuned = zoo(3)
    given = moments(base, 3)
    expected = merge(base, finetuned, method, moments=given).vector("task1")
    torch.set_default_dtype(torch.float64)
    try:
        found = merge(base, finetuned, method, moments=given).vector("task1")
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(found[name].dtype == expected[name].dtype for name in expected)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_individual_gives_back_the_finetuned_models():
    base, finetuned = zoo(3)
    weights = apply(base, merge(base, finetuned, "individual"), task="task2")
    torch.testing.assert_close(weights, finetuned["task2"])


def test_stored_sizes():
    base, finetuned = zoo(4)
    base_bytes = sum(v.numel() * v.element_size() for v in base.values())
    learned = sum(v.numel() for k, v in base.items() if k not in ("frozen.weight", "position_ids"))
    sizes = {m: merge(base, finetuned, m, moments=moments(base, len(finetuned))) for m in METHODS}
    assert (sizes["zero_shot"].stored_bytes, sizes["zero_shot"].stored_bytes_without_base) == (base_bytes, 0)
    assert (sizes["ties"].stored_bytes, sizes["ties"].stored_bytes_without_base) == (base_bytes, 8 * learned)
    assert sizes["individual"].stored_bytes == 4 * base_bytes
    assert sizes["individual"].stored_bytes_without_base == 4 * 8 * learned
    bits = sum(4 * -(-v.numel() // 8) for k, v in base.items() if k not in ("frozen.weight", "position_ids"))
    assert sizes["tall_mask"].stored_bytes == base_bytes + 8 * learned + bits
    matrices = {"tall.weight": 6, "wide.weight": 5, "square.weight": 7}  # and k = 0 for thin.weight
    factors = sum(k * (sum(base[name].shape) + 1) for name, k in matrices.items())
    others = sum(v.numel() for k, v in base.items() if not k.endswith(".weight") or k == "conv.weight") - 5
    assert sizes["tsv_c"].stored_bytes_without_base == 4 * 8 * (factors + others)


def test_the_tuned_parameter_needs_no_names():
    base, finetuned = zoo(3)
    for name in METHODS:
        method = Method.load(name)
        if method.tune:
            judged = merge(base, finetuned, method.tuner(0.5)).vector("task1")
            close(judged, merge(base, finetuned, "tall_mask", lambda_=0.5).vector("task1"), 1e-12)
            assert merge(base, finetuned, method.tuned([0.2, 0.3, 0.6])).params[method.tune.parameter] == [
                0.2,
                0.3,
                0.6,
            ]


def test_a_method_from_anywhere():
    config = {"name": "mine", "_target_": "torch.amax", "dim": 0, "alpha": {"default": 0.5, "stop": 2.0, "steps": 4}}
    method = Method.from_config(config)
    assert method.alpha.grid == (0.5, 1.0, 1.5, 2.0)
    base, finetuned = zoo(3)
    expected = torch.stack([m["conv.weight"] - base["conv.weight"] for m in finetuned.values()]).amax(0)
    assert torch.equal(merge(base, finetuned, method).vector()["conv.weight"], expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, f: merge(b, f, "tsv"), r"unknown method 'tsv'; did you mean tsv_.\? choose from: .*tsv_m"),
        (lambda b, f: merge(b, f, "tsv_m", density=0.2), "no parameter 'density'; it has: rank_fraction"),
        (lambda b, f: merge(b, f, "zero_shot", a=1), "has: before, after"),
        (lambda b, f: merge(b, {}), "no fine-tuned model"),
        (lambda b, f: merge(b, list(f.values())), "the models are a list; give a mapping"),
        (lambda b, f: apply(b, merge(b, f, "tsv_c")), "needs a task; choose from: task0, task1"),
        (lambda b, f: apply(b, merge(b, f), task="x"), "has no task 'x'"),
        (lambda b, f: apply(b, merge(b, f), float("nan")), "alpha"),
        (lambda b, f: apply(b, merge(b, f), 1j), "^alpha=1j: it must be a finite number"),
        (lambda b, f: apply(b, merge(b, f), [0.5, 1]), r"^alpha=\[0.5, 1\]: it must be a finite number"),
        (lambda b, f: apply({"scale": b["scale"]}, merge(b, f)), "has no tensor 'tall.weight'"),
        (
            lambda b, f: apply({name: w.to("meta") for name, w in b.items()}, merge(b, f)),
            "of the base is without data",
        ),
        (lambda b, f: merge(b, f, device="nope"), "^device=nope: no such device on this machine; choose cpu$"),
        (lambda b, f: merge(b, f, device="xpu:7"), "device=xpu:7: no such device"),
        (lambda b, f: merge(b, f, engine=Engine(keep="*.bias")), r"engine.keep=\*.bias: give a list of patterns"),
        (lambda b, f: Method.from_config({"name": "x", "_target_": "tsv_exp.nowhere.f"}), "method x: cannot import"),
        (lambda b, f: Method.from_config({"name": "x"}), "no _target_"),
        (
            lambda b, f: Method.from_config(
                {"name": "x", "_target_": "tsv_exp.methods.singular_vectors.tsv_m", "rank": 1}
            ),
            "x: .*'rank'",
        ),
        (
            lambda b, f: Method.from_config({"name": "x", "_target_": "tsv_exp.methods.sign_election.ties"}),
            "thresholds",
        ),
        (lambda b, f: Method.from_config({"name": "x", "_target_": "torch.amax", "layers": "some"}), "layers=some"),
        (lambda b, f: Method.from_config({"name": "x", "_target_": "torch.amax", "alpha": {"stp": 1}}), "alpha"),
    ],
)
def test_errors_say_what_exists(call, message):
    with pytest.raises(UserError, match=message):
        call(*zoo(2))


def test_the_package_imports_without_torch():
    code = "import sys, tsv_exp; assert 'torch' not in sys.modules; tsv_exp.merge; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert callable(interference)


@pytest.mark.parametrize(("key", "known"), [("svd", build.ALGEBRAS), ("cache", build.CACHES)])
def test_what_is_not_known_is_named_before_anything_is_loaded(key, known):
    for value in known:
        assert getattr(Engine(**{key: value}), key) == value
    with pytest.raises(UserError, match=rf"engine\.{key}=fancy: choose from: {', '.join(known)}$"):
        Engine(**{key: "fancy"})


def test_a_merge_is_shown_without_its_weights():
    base, finetuned = zoo(2)
    shown = repr(merge(base, finetuned, "tsv_m"))
    assert "tensor(" not in shown
    assert "tasks=('task0', 'task1')" in shown
