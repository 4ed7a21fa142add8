"""Folders of several models, laid out as diffusers and sentence-transformers lay them out."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from models import close, same, zoo
from safetensors.torch import load_file, save_file

from tsv_exp import UserError, apply, merge
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.command_line import options_of

DIFFUSERS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
SENTENCES = {".": "model.safetensors", "2_Dense": "model.safetensors"}


def weights(layout, models):
    """Component -> base and fine-tuned weights; the last component is the same in all of them."""
    found = {}
    for seed, name in enumerate(layout):
        base, finetuned = zoo(len(models), torch.float32, seed)
        found[name] = (base, dict(zip(models, finetuned.values(), strict=True)))
    return found


def lay_out(folder, layout, contents, others):
    """Write weights by component, and other files by their path."""
    for name, tensors in contents.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / name / layout[name])
    for name, content in others.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """A pipeline whose vae no model changes."""
    monkeypatch.chdir(tmp_path)
    found = weights(DIFFUSERS, ["a", "b"])
    others = {
        "model_index.json": {"unet": []},
        "unet/config.json": {"c": 1},
        "scheduler/scheduler_config.json": {"s": 1},
    }
    vae = found["vae"][0]
    lay_out(tmp_path / "base", DIFFUSERS, {name: base for name, (base, _) in found.items()}, others)
    for model in ("a", "b"):
        contents = {name: finetuned[model] for name, (_, finetuned) in found.items()} | {"vae": vae}
        lay_out(tmp_path / model, DIFFUSERS, contents, others)
    return found


WORDS = ["base=base", "models=[a, b]", "out=out"]


def expect(folder, base, finetuned, **params):
    wanted = apply(base, merge(base, finetuned, **params))
    close(
        {name: tensor.double() for name, tensor in load_file(folder).items()},
        {name: tensor.double() for name, tensor in wanted.items()},
        1e-6,
    )


def test_a_pipeline_is_merged_component_by_component(pipeline, tmp_path):
    run(options_of(WORDS))
    for name in ("unet", "text_encoder"):
        expect(tmp_path / "out" / name / DIFFUSERS[name], *pipeline[name])
    for name in ("vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json", "model_index.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "base" / name).read_bytes()
    assert (tmp_path / "out" / "unet" / "config.json").is_file()
    told = json.loads((tmp_path / "out" / "tsv_merge.json").read_text())
    assert set(told["inputs"]["model a"]["files"]) == {f"{name}/{DIFFUSERS[name]}" for name in ("unet", "text_encoder")}
    run(options_of(WORDS))  # what is finished is recognized
    with pytest.raises(UserError, match="contains something else"):
        run(options_of([*WORDS, "alpha=0.5"]))


def test_a_copied_component_keeps_its_dtype_and_is_named(pipeline, caplog):
    run(options_of([*WORDS, "dtype=bfloat16"]))
    unet = load_file("out/unet/diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in unet.values() if weight.is_floating_point()} == {torch.bfloat16}
    same(load_file("out/vae/diffusion_pytorch_model.safetensors"), pipeline["vae"][0])
    (line,) = [record.getMessage() for record in caplog.records if "stays" in record.getMessage()]
    assert line == "no model changes vae, which is copied and stays float32, not bfloat16"


def test_rules_may_name_layers_of_one_component(pipeline, tmp_path):
    base, finetuned = pipeline["unet"]
    (tmp_path / "config.yaml").write_text("layers: {'tall*': {method: weight_average}}\nmethod: weight_average\n")
    for model in (base, *finetuned.values()):
        model["another.weight"] = torch.randn(4, 4)
    lay_out(tmp_path / "base", DIFFUSERS, {"unet": base}, {})
    for name, model in finetuned.items():
        lay_out(tmp_path / name, DIFFUSERS, {"unet": model}, {})
    (tmp_path / "config.yaml").write_text("layers: {'another*': {method: task_arithmetic, alpha: 1.0}}\nmethod: ties\n")
    run(options_of(["config.yaml", *WORDS]))
    got = load_file(tmp_path / "out" / "unet" / DIFFUSERS["unet"])["another.weight"]
    change = sum(model["another.weight"] - base["another.weight"] for model in finetuned.values())
    assert torch.allclose(got, base["another.weight"] + change, atol=1e-6)


def test_sentence_transformers_with_a_dense_layer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = weights(SENTENCES, ["a", "b"])
    modules = [{"path": path} for path in ("", "1_Pooling", "2_Dense")]
    others = {"modules.json": modules, "config.json": {}, "1_Pooling/config.json": {"p": 1}, "2_Dense/config.json": {}}
    lay_out(tmp_path / "base", SENTENCES, {name: base for name, (base, _) in found.items()}, others)
    for model in ("a", "b"):
        lay_out(tmp_path / model, SENTENCES, {name: tuned[model] for name, (_, tuned) in found.items()}, others)
    run(options_of(WORDS))
    for name, file in SENTENCES.items():
        expect(tmp_path / "out" / name / file, *found[name])
    for name in others:
        assert (tmp_path / "out" / name).is_file()
    with pytest.raises(UserError, match=r"form: base has .*; merge them one by one: base/model\.safetensors, base/2_"):
        run(options_of([*WORDS, "form=lora", "rank=2"]))


def test_layers_that_a_plain_base_lacks_are_named(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    found = weights(SENTENCES, ["a"])
    lay_out(tmp_path / "base", SENTENCES, {".": found["."][0]}, {})
    lay_out(tmp_path / "a", SENTENCES, {name: models["a"] for name, (_, models) in found.items()}, {"modules.json": []})
    run(options_of(["base=base", "models=[a]", "out=out"]))
    assert "model 'a' (a) has components that the base lacks, which are left out: 2_Dense" in caplog.text


def test_components_that_do_not_fit_are_named(pipeline, tmp_path):
    shutil.rmtree(tmp_path / "b" / "unet")
    with pytest.raises(UserError, match=r"model 'b' .* lacks the component 'unet'"):
        run(options_of(WORDS))
    shutil.copytree(tmp_path / "a" / "unet", tmp_path / "b" / "controlnet")
    shutil.copytree(tmp_path / "a" / "unet", tmp_path / "b" / "unet")
    with pytest.raises(UserError, match="a component 'controlnet', which the base lacks"):
        run(options_of(WORDS))
    for word in ("form=lora", "vocabulary=union", "tokenizer=a"):
        with pytest.raises(
            UserError, match=f"{word.split('=')[0]}: .* has several components; .*/text_encoder, .*/unet"
        ):
            run(options_of([*WORDS, word]))
    with pytest.raises(UserError, match="all models are equal to the base"):
        run(options_of(["base=base", "models={a: base}", "out=out"]))
    shutil.rmtree(tmp_path / "b" / "controlnet")
    weights = load_file(tmp_path / "b" / "unet" / DIFFUSERS["unet"])  # the second component
    name = next(name for name, weight in weights.items() if weight.dim() == 2)
    save_file(weights | {name: torch.ones(2, 3)}, tmp_path / "b" / "unet" / DIFFUSERS["unet"])
    with pytest.raises(UserError, match=r"has shape \(2, 3\) in model 'b'"):
        run(options_of(WORDS))
    assert not (tmp_path / "out").exists()


def test_variants_are_merged_under_their_name(pipeline):
    for place in ("base", "a", "b"):
        Path(place, "unet", DIFFUSERS["unet"]).rename(Path(place, "unet", "diffusion_pytorch_model.fp16.safetensors"))
    run(options_of([*WORDS, "method=weight_average"]))
    base, finetuned = pipeline["unet"]
    expected = apply(base, merge(base, finetuned, "weight_average"), 1.0)
    found = load_file("out/unet/diffusion_pytorch_model.fp16.safetensors")
    close(
        {name: weight.float() for name, weight in found.items()},
        {name: w.float() for name, w in expected.items()},
        1e-6,
    )
    Path("base/unet/diffusion_pytorch_model.fp16.safetensors").rename("base/unet/my_model.safetensors")
    with pytest.raises(UserError, match=r"my_model.safetensors: the name of these weights is not known"):
        run(options_of(["base=base", "models=[a, b]", "out=other"]))


def test_a_model_without_components_is_told_so(pipeline):
    with pytest.raises(
        UserError, match=r"'unet' \(a/unet\) has none of the base's components \(text_encoder, unet, vae\)"
    ):
        run(options_of(["base=base", "models=[a/unet]", "out=out"]))


def test_patterns_have_to_match_in_some_component(pipeline):
    for place in ("base", "a", "b"):
        file = Path(place, "unet", DIFFUSERS["unet"])
        save_file({f"unet.{name}": weight for name, weight in load_file(file).items()}, file)
    for option in ("keep", "exclude", "ignore"):
        with pytest.raises(UserError, match=rf"{option}='nothing\*' matches none"):
            run(options_of([*WORDS, f"{option}=['nothing*']"]))
    run(options_of([*WORDS, "keep=['unet.*']"]))  # a whole component
    same(load_file("out/unet/" + DIFFUSERS["unet"]), load_file("base/unet/" + DIFFUSERS["unet"]))
    assert not torch.equal(
        load_file("out/text_encoder/model.safetensors")["tall.weight"],
        load_file("base/text_encoder/model.safetensors")["tall.weight"],
    )


def test_exports_of_the_base_for_other_programs_are_not_copied(pipeline):
    lay_out(Path("base"), {}, {}, {"onnx/model.onnx": {}, "onnx/config.json": {}})
    run(options_of([*WORDS, "method=weight_average"]))
    assert not Path("out/onnx/model.onnx").exists()
    assert Path("out/onnx/config.json").exists()


def test_an_adapter_may_be_a_component(pipeline):
    """Beside a whole component of another model."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["tall"]}
    factors = {"A": torch.randn(2, 24), "B": torch.randn(40, 2)}
    Path("a/unet", DIFFUSERS["unet"]).unlink()
    lay_out(Path("a"), {}, {}, {"unet/adapter_config.json": config})
    tensors = {f"base_model.model.tall.lora_{side}.weight": factor for side, factor in factors.items()}
    save_file(tensors, "a/unet/adapter_model.safetensors")
    run(options_of([*WORDS, "method=weight_average"]))
    base, finetuned = pipeline["unet"]
    expected = (base["tall.weight"] + 2 * factors["B"] @ factors["A"] + finetuned["b"]["tall.weight"]) / 2
    torch.testing.assert_close(load_file("out/unet/" + DIFFUSERS["unet"])["tall.weight"], expected)


def test_a_component_that_only_a_model_has(pipeline):
    for place in ("base", "a", "b"):
        lay_out(Path(place), {".": "model.safetensors"}, {".": pipeline["unet"][0]}, {"modules.json": []})
        for name in ("unet", "vae", "text_encoder"):
            if place == "base":
                shutil.rmtree(Path(place, name))
    with pytest.raises(UserError, match=r"'a' \(a\) has a component 'text_encoder', which the base lacks"):
        run(options_of(WORDS))
