import json

import pytest
import torch
from models import close, matrix, zoo
from safetensors.torch import save_file

from tsv_exp import UserError, interference, merge
from tsv_exp.checkpoints.adapters.lora import Adapter
from tsv_exp.checkpoints.hub import downloads
from tsv_exp.checkpoints.sources import locate, open_weights
from tsv_exp.config import Engine
from tsv_exp.decompositions.fast import FastAlgebra
from tsv_exp.merging.task_vectors import TaskVectors


def adapter(folder, generator, base, rank=3, **config):
    folder.mkdir()
    tensors = {}
    for module in ("square", "tall"):
        m, n = base[f"{module}.weight"].shape
        for side, shape in (("A", (rank, n)), ("B", (m, rank))):
            tensors[f"base_model.model.{module}.lora_{side}.weight"] = torch.randn(shape, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": 6, **config}))
    return tensors


@pytest.mark.parametrize("rslora", [False, True])
def test_adapters(tmp_path, rslora):
    base, _ = zoo(1, torch.bfloat16)
    tensors = adapter(tmp_path / "a", torch.Generator().manual_seed(0), base, use_rslora=rslora)
    model = open_weights(tmp_path / "a", base)
    product = tensors["base_model.model.tall.lora_B.weight"] @ tensors["base_model.model.tall.lora_A.weight"]
    delta = TaskVectors(base, {"a": model}).layer("tall.weight").deltas[0]
    torch.testing.assert_close(delta, product * (6 / 3**0.5 if rslora else 2))
    torch.testing.assert_close(model["tall.weight"], base["tall.weight"].float() + delta)
    assert torch.equal(model["conv.weight"], base["conv.weight"])
    assert not TaskVectors(base, {"a": model}).layer("wide.weight").deltas.any()
    merged = merge(base, {"a": model, "b": dict(base)}, rank_fraction=0.5).vector()
    torch.testing.assert_close(merged["tall.weight"], delta, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"r": None}, "does not describe"),
        ({"fan_in_fan_out": True}, "stored transposed"),
        ({"peft_type": "LOHA"}, "type LOHA"),
        ({"init_lora_weights": "loftq"}, "loftq.*merge it into its model"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model"),
        ({"init_lora_weights": "corda"}, "path_initial_model"),
        ({"rank_pattern": {"tall": 7}}, "its configuration says 7"),
        ({"rank_pattern": {"(": 7}}, "pattern"),
    ],
)
def test_adapters_of_other_kinds_are_refused(tmp_path, config, message):
    base = {"square.weight": matrix(6, 6, torch.Generator()), "tall.weight": torch.zeros(9, 5)}
    adapter(tmp_path / "a", torch.Generator().manual_seed(0), base, **config)
    with pytest.raises(UserError, match=message):
        open_weights(tmp_path / "a", base)


def test_the_factors_of_adapters_are_all_that_is_used(tmp_path, monkeypatch):
    base, _ = zoo(1)
    models = {}
    for i, rank in enumerate((3, 5)):
        adapter(tmp_path / str(i), torch.Generator().manual_seed(i), base, rank)
        models[f"task{i}"] = open_weights(tmp_path / str(i), base)
    dense = {task: {name: model[name] for name in model} for task, model in models.items()}
    expected = {method: merge(base, dense, method) for method in ("tsv_m", "tsv_c")}
    wide = TaskVectors(base, models).layer("wide.weight")
    assert [factors.u.shape[1] for factors in wide.factors] == [0, 0]
    interfering = interference(base, dense)
    monkeypatch.setattr(FastAlgebra, "truncated_svd", None)  # no product is decomposed
    formed = Adapter.delta

    def only_of_others(self, name, dtype):
        assert name not in ("square.weight", "tall.weight"), "a product is formed"
        return formed(self, name, dtype)

    monkeypatch.setattr(Adapter, "delta", only_of_others)
    for method, dense_merge in expected.items():
        close(merge(base, models, method).vector("task1"), dense_merge.vector("task1"), 1e-6)
    assert interference(base, models) == pytest.approx(interfering, rel=1e-5, abs=1e-5)


def test_products_of_large_adapters_are_never_formed(tmp_path, monkeypatch):
    def formed(*_):
        raise AssertionError("a product is formed")

    monkeypatch.setattr(Adapter, "delta", formed)
    side = 20_000
    base = {f"{module}.weight": torch.zeros(()).expand(side, side) for module in ("square", "tall")}
    models = {}
    for i, rank in enumerate((3, 5)):
        adapter(tmp_path / str(i), torch.Generator().manual_seed(i), base, rank)
        models[f"task{i}"] = open_weights(tmp_path / str(i), base)
    merged = merge(base, models, "tsv_c")
    assert merged.layers["tall.weight"].s.shape == (2, 5)
    assert merged.stored_bytes_without_base == 2 * (3 + 5) * (2 * side + 1) * 4
    assert interference(base, models)["tall.weight"] > 0


def test_an_adapter_needs_its_base(tmp_path):
    base, _ = zoo(1)
    adapter(tmp_path / "a", torch.Generator().manual_seed(0), base)
    with pytest.raises(UserError, match="give the model that it belongs to"):
        open_weights(tmp_path / "a")
    with pytest.raises(UserError, match=r"no parameter 'tall.weight'|no parameter 'square.weight'"):
        open_weights(tmp_path / "a", {"other": torch.ones(1)})


@pytest.mark.parametrize("source", ["mistralai/Mistral-7B-v0.1", "Qwen/Qwen2.5-0.5B@main"])
def test_version_numbers_in_hub_ids(tmp_path, monkeypatch, source):
    save_file(zoo(1)[0], tmp_path / "model.safetensors")
    monkeypatch.setattr(downloads, "model", lambda *_: tmp_path)
    assert "scale" in open_weights(source)


def test_a_folder_of_the_hubs_cache(tmp_path):
    place = tmp_path / "models--owner--name"
    for revision, value in (("0123", 0.0), ("abcd", 1.0)):
        (place / "snapshots" / revision).mkdir(parents=True)
        save_file({"scale": torch.tensor(value)}, place / "snapshots" / revision / "model.safetensors")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abcd")
    assert open_weights(place)["scale"] == 1


def test_a_wrong_name_in_a_folder_that_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()

    def unreachable(*_):
        raise ConnectionError

    monkeypatch.setattr(downloads, "model", unreachable)
    with pytest.raises(UserError, match=r"model runs/cars \(the folder runs here has no cars\): .* cannot be reached"):
        locate("runs/cars")
    with pytest.raises(UserError, match=r"model owner/cars: .* cannot be reached"):
        locate("owner/cars")


def test_what_is_neither_a_path_nor_a_hub_id():
    for source in ("nowhere/model.safetensors", "a/b/c", "model", "./nowhere", "../nowhere"):
        with pytest.raises(UserError, match=source):
            open_weights(source)


@pytest.mark.parametrize("exclude", [[], ["tall.*"]])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_damaged_base_is_seen_where_all_models_are_adapters(tmp_path, exclude, value):
    base, _ = zoo(1)
    adapter(tmp_path / "a", torch.Generator().manual_seed(0), base)
    base["tall.weight"][3, 2] = value
    save_file(base, tmp_path / "base.safetensors")
    damaged = open_weights(tmp_path / "base.safetensors")
    with pytest.raises(UserError, match=r"'tall.weight' of the base \(.*base.safetensors\)"):
        merge(damaged, {"a": open_weights(tmp_path / "a", damaged)}, engine=Engine(exclude=exclude))


def test_errors_name_the_shard_that_holds_the_tensor(tmp_path):
    base, finetuned = zoo(1)
    names = sorted(base)
    places = {name: f"part{i}.safetensors" for i, part in enumerate((names[:5], names[5:])) for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    def sharded(weights):
        for place in set(places.values()):
            save_file({name: weights[name] for name in names if places[name] == place}, tmp_path / place)
        return open_weights(tmp_path)

    weights = finetuned["task0"]
    for odd, message in ((torch.full((17,), torch.nan), "holds NaN"), (torch.ones(3), "they must be the same")):
        with pytest.raises(UserError, match=rf"(?=.*'norm.bias')(?=.*{places['norm.bias']}).*{message}"):
            merge(base, {"x": sharded(weights | {"norm.bias": odd})})
    sharded(weights)
    save_file({"scale": weights["scale"]}, tmp_path / places["norm.bias"])
    with pytest.raises(UserError, match=f"{places['norm.bias']} lacks the tensor"):
        open_weights(tmp_path)


def test_another_architecture_is_named_with_its_file(tmp_path):
    base, _ = zoo(1)
    for name, weights, message in (
        ("less", {k: v for k, v in base.items() if k != "scale"}, "lacks the tensor 'scale'"),
        ("more", base | {"extra": torch.ones(1)}, "has a tensor 'extra'"),
    ):
        save_file(weights, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=rf"{name}.safetensors\) {message}"):
            merge(base, {"x": open_weights(tmp_path / f"{name}.safetensors")})


def test_values_that_are_not_finite_name_the_file(tmp_path):
    base, _ = zoo(1)
    save_file(base | {"norm.bias": torch.full((17,), float("nan"))}, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=r"'norm.bias' of model 'x' \(.*bad.safetensors\)"):
        merge(base, {"x": open_weights(tmp_path / "bad.safetensors")})
