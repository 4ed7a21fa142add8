"""Models of transformers merged from folder to folder: what comes out is what the library loads."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tsv_exp.checkpoints.readers import read
from tsv_exp.errors import UserError
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30}
VIT = {name: size for name, size in SIZES.items() if name != "vocab_size"} | {"image_size": 8, "patch_size": 4}
MODELS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=30, n_positions=8)
    ),
    "llama tied": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES)),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=30)
    ),
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)),
    "moe": lambda: transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**SIZES, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1)
    ),
}


def average(states):
    """Weight averaging, α = 1, in float64."""
    return {name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_folders_and_raw_state_dicts(tmp_path, kind, dtype):
    models = []
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        models.append(MODELS[kind]())
        models[-1].save_pretrained(tmp_path / name)
    raw = models[2].state_dict() if kind != "moe" else dict(read(tmp_path / "b"))  # whose experts are fused in memory
    wrapped = {f"module._orig_mod.{name}": weight for name, weight in raw.items()}
    torch.save({"epoch": 1, "model": wrapped}, tmp_path / "b.ckpt")  # all tied weights and buffers, names as in memory
    words = [f"base={tmp_path / 'base'}", f"models=[{tmp_path / 'a'},{tmp_path / 'b.ckpt'}]", f"out={tmp_path / 'out'}"]
    run(parse([*words, "method=weight_average", *([f"dtype={dtype}"] if dtype else [])]))
    loaded = type(models[0]).from_pretrained(tmp_path / "out")
    wanted = average([model.state_dict() for model in models[1:]])
    assert {weight.dtype for weight in loaded.parameters()} == {getattr(torch, dtype or "float32")}
    for name, weight in loaded.state_dict().items():
        if weight.is_floating_point():
            tolerance = 1e-2 if dtype else 1e-6
            torch.testing.assert_close(weight.double(), wanted[name], rtol=tolerance, atol=tolerance)
    assert set(read(tmp_path / "out")) == set(read(tmp_path / "base"))


@pytest.mark.parametrize("stated", [True, False])
def test_embeddings_that_the_merge_unties(tmp_path, caplog, stated):
    """The base's file holds both tensors, which its configuration ties; a model has an output embedding of its own."""
    models = []
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        models.append(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, tie_word_embeddings=name != "a")))
        models[-1].save_pretrained(tmp_path / name)
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    if not stated:
        del config["tie_word_embeddings"]
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    for name, model in (("base", models[0]), ("b", models[2])):
        state = {key: weight.clone() for key, weight in model.state_dict().items()}
        assert torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"])
        save_file(state, tmp_path / name / "model.safetensors", {"format": "pt"})
    words = [f"base={tmp_path / 'base'}", "method=weight_average"]
    run(parse([*words, f"models=[{tmp_path / 'b'}]", f"out={tmp_path / 'tied'}"]))
    assert "tie_word_embeddings" not in caplog.text
    run(parse([*words, f"models=[{tmp_path / 'a'},{tmp_path / 'b'}]", f"out={tmp_path / 'out'}"]))
    assert "config.json gets tie_word_embeddings: false" in caplog.text
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    wanted = average([model.state_dict() for model in models[1:]])
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        torch.testing.assert_close(loaded[name].double(), wanted[name], rtol=1e-6, atol=1e-6)


def test_a_head_of_another_size(tmp_path):
    for seed, (name, labels) in enumerate({"base": 2, "a": 5}.items()):
        torch.manual_seed(seed)
        config = transformers.BertConfig(**SIZES, num_labels=labels)
        transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / name)
    words = [f"base={tmp_path / 'base'}", f"models=[{tmp_path / 'a'}]", f"out={tmp_path / 'out'}"]
    run(parse([*words, "keep=['classifier.*']"]))
    merged, base = read(tmp_path / "out"), read(tmp_path / "base")
    assert torch.equal(merged["classifier.weight"], base["classifier.weight"])
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.equal(merged[name], base[name])
    assert transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out").config.num_labels == 2


def test_experts_as_in_memory_are_refused(tmp_path):
    model = MODELS["moe"]()
    model.save_pretrained(tmp_path / "base")
    torch.save(model.state_dict(), tmp_path / "a.pt")
    words = [f"base={tmp_path / 'base'}", f"models=[{tmp_path / 'a.pt'}]", f"out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=r"transformers made the tensor 'model.layers.0.mlp.experts.*of several"):
        run(parse(words))


def test_a_base_as_in_memory(tmp_path):
    states = []
    for seed, name in enumerate(("base", "a")):
        torch.manual_seed(seed)
        model = MODELS["vit"]()
        states.append(model.state_dict())
        model.save_pretrained(tmp_path / name)
    torch.save(states[0], tmp_path / "base.pt")
    words = [f"base={tmp_path / 'base.pt'}", f"models=[{tmp_path / 'a'}]", f"out={tmp_path / 'out'}"]
    run(parse([*words, "method=task_arithmetic", "alpha=0.5"]))
    merged = read(tmp_path / "out" / "model.safetensors")
    for name, weight in average(states).items():
        torch.testing.assert_close(merged[name].double(), weight, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("kind", ["vit", "clip vision"])
def test_an_adapter_with_names_as_in_memory(tmp_path, kind):
    """Which PEFT writes; in the model's file transformers keeps the old names."""
    peft = pytest.importorskip("peft")
    kinds = MODELS | {"clip vision": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VIT))}
    torch.manual_seed(0)
    model = kinds[kind]()
    model.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "fc1"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    adapted.save_pretrained(tmp_path / "a")
    run(parse([f"base={tmp_path / 'base'}", f"models=[{tmp_path / 'a'}]", f"out={tmp_path / 'out'}", "method=tsv_m"]))
    loaded = type(model).from_pretrained(tmp_path / "out").state_dict()
    for name, weight in adapted.merge_and_unload().state_dict().items():  # TSV-M of one model is that model
        torch.testing.assert_close(loaded[name], weight, rtol=1e-5, atol=1e-6)
