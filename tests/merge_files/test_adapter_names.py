"""form=lora without a base: names of modules, and what is no linear layer."""

import json
from contextlib import nullcontext

import pytest
import torch
from adapters import configure, plain_adapter
from safetensors.torch import load_file, save_file

from tsv_exp import UserError
from tsv_exp.checkpoints.adapters.base_names import check_names
from tsv_exp.checkpoints.adapters.factors import Adapter
from tsv_exp.checkpoints.loaded_names import loaded_names
from tsv_exp.checkpoints.readers import read
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:peft", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


def test_linear_layers_whose_names_are_like_those_of_embeddings(tmp_path):
    module = "time_embedding.linear_1"
    for name in "ab":
        plain_adapter(tmp_path / name, module)
    run(parse([f"models=[{tmp_path / 'a'},{tmp_path / 'b'}]", f"out={tmp_path / 'out'}", "form=lora"]))
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert set(found) == {f"base_model.model.{module}.lora_{side}.weight" for side in "AB"}


def test_convolutions_are_told_the_remedy(tmp_path):
    plain_adapter(tmp_path / "a", "conv1")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = {key: tensor[..., None, None].clone() for key, tensor in load_file(file).items()}
    save_file(tensors | {key.replace("conv1", "fc"): t[..., 0, 0].clone() for key, t in tensors.items()}, file)
    words = [f"models=[{tmp_path / 'a'}]", f"out={tmp_path / 'out'}", "form=lora"]
    with pytest.raises(UserError, match=r"'conv1' is a convolution; .*\"ignore=\['conv1.weight'\]\" leaves out"):
        run(parse(words))
    run(parse([*words, "ignore=['conv1.weight']"]))


def test_names_of_two_versions_of_transformers(tmp_path):
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTModel(ViTConfig(**sizes, image_size=4, patch_size=2)).save_pretrained(tmp_path / "base")
    stored = read(tmp_path / "base")
    renamed = {new: old for new, old in loaded_names(stored).items() if new != old and stored[old].shape == (8, 8)}
    loaded, file = next(iter(renamed.items()))
    for name, weight in (("new", loaded), ("old", file)):
        plain_adapter(tmp_path / name, weight.removesuffix(".weight"))
    words = [f"models=[{tmp_path / 'new'},{tmp_path / 'old'}]", f"out={tmp_path / 'out'}", "form=lora"]
    with pytest.raises(UserError, match=r"models 'new' and 'old' have different names for one module"):
        run(parse([f"base={tmp_path / 'base'}", *words]))
    for name in ("new", "old"):
        content = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "base"}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"may be one module in two versions of transformers; give base=FOLDER"):
        run(parse(words))


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (
            ["encoder.layer.0.attention.query", "encoder.layer.0.fc"],
            ["encoder.layer.0.q_proj", "encoder.layer.0.fc"],
            1,
        ),
        (["layers.0.q_proj"], ["layers.0.up_proj"], 0),  # other shapes
        (["layers.0.q_proj"], ["layers.1.q_proj"], 0),  # other layers
        (["layers.0.q_proj", "layers.0.v_proj"], ["layers.0.q_proj"], 0),
        (["layers.0.q_proj"], ["layers.0.q_proj", "layers.1.v_proj"], 0),
        (["layers.0.attn.q_proj", "layers.0.attn.v_proj"], ["layers.0.attn.q_proj", "layers.0.attn.o_proj"], 0),
        (["layers.0.attn.v_proj"], ["layers.0.attn.o_proj"], 1),
    ],
)
def test_modules_that_may_have_two_names(tmp_path, first, second, refused):
    found = {}
    for task, modules in (("a", first), ("b", second)):
        factors = {m: (torch.ones(6 if "up_proj" in m else 8, 1), torch.ones(1, 8), 1.0) for m in modules}
        found[task] = Adapter(tmp_path, {}, factors, tuple(modules))
    with pytest.raises(UserError, match="may be one module") if refused else nullcontext():
        check_names(found)


def test_target_modules_that_are_no_names(tmp_path):
    plain_adapter(tmp_path / "a", "fc")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["fc", None]}
    config["base_model_name_or_path"] = ["x"]
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    run(parse([f"models={tmp_path / 'a'}", f"out={tmp_path / 'out'}", "form=lora"]))
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"] == ["fc"]


@pytest.mark.parametrize(
    ("named", "base", "line"),
    [
        (("org/one", "Org/One"), None, None),
        (("org/one", "/home/me/two"), None, None),
        (("org/one", "org/two"), None, "model 'b' is for the base org/two, and model 'a' is for org/one; if"),
        (("org/one", "org/one"), "org/two", "model 'a' is for the base org/one, and base is org/two; if"),
    ],
)
def test_adapters_of_other_bases_are_named(tmp_path, caplog, named, base, line):
    for name, model in zip("ab", named, strict=True):
        plain_adapter(tmp_path / name, "fc")
        configure(tmp_path / name, base_model_name_or_path=model)
    words = [f"models=[{tmp_path / 'a'},{tmp_path / 'b'}]", f"out={tmp_path / 'out'}", "form=lora"]
    run(parse([*words, *([f"base={base}"] if base else [])]))
    found = [record.getMessage() for record in caplog.records if "is for the base" in record.getMessage()]
    assert len(found) == (line is not None)
    assert line is None or found[0].startswith(line)
