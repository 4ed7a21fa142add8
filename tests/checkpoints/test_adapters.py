"""Adapters that PEFT made of small models: what is read is what PEFT adds to the base's weights."""

import json

import pytest
import torch
from adapters import plain_adapter
from safetensors.torch import load_file, save_file

from tsv_exp import UserError
from tsv_exp.checkpoints.adapters import factors, lora_config
from tsv_exp.checkpoints.sources import open_weights

pytestmark = [  # what the two libraries say of each other
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*(fan_in_fan_out|tie|config file|save_embedding_layers):UserWarning"),
]


def gpt2(folder, kind="GPT2LMHeadModel"):
    """A model whose attention outputs are square Conv1D weights, saved to a folder."""
    import transformers  # slow, as is peft

    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=12)
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config)
    model.save_pretrained(folder)
    return model


def trained(model, folder, seed=1, **config):
    """Saves an adapter of random factors; returns PEFT's merged weights under the names of the model."""
    import peft

    adapter = peft.get_peft_model(model, peft.LoraConfig(**config))
    torch.manual_seed(seed)
    for name, parameter in adapter.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    adapter.save_pretrained(folder)
    return {name: weight.clone() for name, weight in adapter.merge_and_unload().state_dict().items()}


def agrees(folder, adapter, merged, rename=lambda name: name):
    base = open_weights(folder)
    model = open_weights(adapter, base)
    changed = 0
    for name in base:
        torch.testing.assert_close(model[name], merged[rename(name)], rtol=1e-5, atol=2e-6)
        if base[name].dim() == 2:
            dense = model.factors(name, torch.float64).dense()
            torch.testing.assert_close(dense.float(), merged[rename(name)] - base[name], rtol=1e-4, atol=2e-6)
            changed += bool(dense.any())
    return changed


@pytest.mark.parametrize("initialization", ["pissa", "olora", "gaussian", "orthogonal", True])
def test_what_the_initialization_took_from_the_base_is_taken_into_account(tmp_path, initialization):
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=30
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    chosen = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": initialization}
    merged = trained(model, tmp_path / "lora", **chosen)
    assert agrees(tmp_path / "base", tmp_path / "lora", merged) == 2


@pytest.mark.parametrize("initialization", ["pissa", True])
def test_conv1d_and_linear_layers_under_one_fan_in_fan_out(tmp_path, initialization):
    model = gpt2(tmp_path / "base")
    targets = {"target_modules": ["c_attn", "c_proj", "lm_head"], "init_lora_weights": initialization}
    if initialization == "pissa":  # a head that is tied to the embedding would change both
        targets["target_modules"] = ["c_attn", "c_proj"]
    else:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.config.tie_word_embeddings = False
        model.save_pretrained(tmp_path / "base")
    merged = trained(model, tmp_path / "lora", r=3, fan_in_fan_out=True, **targets)
    assert agrees(tmp_path / "base", tmp_path / "lora", merged) == 6 + (initialization is True)


def test_weights_that_are_saved_as_they_are(tmp_path):
    import peft
    import transformers

    config = transformers.BertConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=30
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "base")
    adapter = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["query"], modules_to_save=["classifier"], bias="lora_only")
    )
    for name, parameter in adapter.named_parameters():
        if parameter.requires_grad or name.endswith("query.base_layer.bias"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    adapter.save_pretrained(tmp_path / "lora")
    merged = {name: weight.clone() for name, weight in adapter.merge_and_unload().state_dict().items()}
    base = open_weights(tmp_path / "base")
    changed = {name for name in base if not torch.equal(open_weights(tmp_path / "lora", base)[name], base[name])}
    assert changed == {"classifier.weight", "classifier.bias"} | {
        f"bert.encoder.layer.0.attention.self.query.{part}" for part in ("weight", "bias")
    }
    agrees(tmp_path / "base", tmp_path / "lora", merged)


def test_embeddings(tmp_path):
    model = gpt2(tmp_path / "base", "GPT2Model")
    merged = trained(model, tmp_path / "lora", r=3, target_modules=["wpe", "c_fc"], init_lora_weights=False)
    assert agrees(tmp_path / "base", tmp_path / "lora", merged) == 3


def test_factors_of_convolutions_are_told_the_remedy(tmp_path):
    trained(gpt2(tmp_path / "base"), tmp_path / "lora", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    file = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({key: tensor[..., None, None].clone() for key, tensor in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"'transformer.h.0.attn.c_attn' is a convolution; merge the adapter"):
        open_weights(tmp_path / "lora", open_weights(tmp_path / "base"))


def test_embeddings_that_were_resized(tmp_path):
    """PEFT saves them whole, under several names; the base needs as many rows."""
    model = gpt2(tmp_path / "base")
    model.resize_token_embeddings(len(model.get_input_embeddings().weight) + 3)
    model.save_pretrained(tmp_path / "resized")
    merged = trained(model, tmp_path / "lora", r=2, target_modules=["c_attn"], modules_to_save=["wte"])
    with pytest.raises(UserError, match=r"'transformer.wte.weight' has shape .* resize the base's first"):
        open_weights(tmp_path / "lora", open_weights(tmp_path / "base"))
    assert agrees(tmp_path / "resized", tmp_path / "lora", merged) == 2


VARIANTS = {
    "DoRA.*merge_and_unload": {"use_dora": True},
    "trainable tokens.*merge_and_unload": {"trainable_token_indices": {"wte": [1, 2]}},
    "acts only after its tokens": {"alora_invocation_tokens": [1, 2], "task_type": "CAUSAL_LM"},
}


@pytest.mark.parametrize("message", VARIANTS)
def test_variants_of_lora_are_told_the_remedy(tmp_path, message):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, **VARIANTS[message])
    get_peft_model(gpt2(tmp_path / "base"), config).save_pretrained(tmp_path / "lora")
    with pytest.raises(UserError, match=message):
        open_weights(tmp_path / "lora", open_weights(tmp_path / "base"))
    with pytest.raises(UserError, match=message):
        factors.Adapter.open(tmp_path / "lora" / "adapter_model.safetensors")


def test_layer_replication_and_other_kinds_of_adapters_are_told_the_remedy(tmp_path):
    from adapters import llama
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model

    kinds = {
        "layer replication.*merge_and_unload": LoraConfig(
            layer_replication=[[0, 2], [1, 2]], target_modules=["q_proj"]
        ),
        "type IA3; merge it.*merge_and_unload": IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
        "PREFIX_TUNING; it changes no weights": PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    }
    for number, (message, config) in enumerate(kinds.items()):
        model = llama(tmp_path / "base")
        get_peft_model(model, config).save_pretrained(tmp_path / str(number))
        with pytest.raises(UserError, match=message):
            open_weights(tmp_path / str(number), open_weights(tmp_path / "base"))


PATTERNS = {
    "rank_pattern": {"transformer.h.0.attn.c_attn": 2, "^transformer.h.1.mlp.c_proj": 5},
    "alpha_pattern": {r"h\.\d+\.mlp\.c_proj": 24, "attn.c_proj": 1},
}


def test_patterns_match_the_names_of_the_model_that_was_trained(tmp_path):
    merged = trained(
        gpt2(tmp_path / "head"),
        tmp_path / "lora",
        r=4,
        target_modules=["c_attn", "c_proj"],
        fan_in_fan_out=True,
        **PATTERNS,
    )
    gpt2(tmp_path / "bare", "GPT2Model")  # the same weights: one seed
    assert agrees(tmp_path / "head", tmp_path / "lora", merged) == 6
    assert agrees(tmp_path / "bare", tmp_path / "lora", merged, lambda name: f"transformer.{name}") == 6


def test_square_weights_of_an_unknown_model_are_refused_where_they_may_be_transposed(tmp_path):
    merged = trained(gpt2(tmp_path / "base"), tmp_path / "lora", r=2, target_modules=["c_proj"], fan_in_fan_out=True)
    base = dict(open_weights(tmp_path / "base"))  # without its config.json: biases tell
    name = "transformer.h.0.attn.c_proj.weight"
    torch.testing.assert_close(open_weights(tmp_path / "lora", base)[name], merged[name], rtol=1e-5, atol=2e-6)
    with pytest.raises(UserError, match=rf"'{name}'.*config.json"):
        open_weights(tmp_path / "lora", {name: weight for name, weight in base.items() if "bias" not in name})


def test_what_is_ignored_or_kept_is_not_changed(tmp_path):
    model = gpt2(tmp_path / "base")
    trained(model, tmp_path / "lora", r=2, target_modules=["c_attn", "lm_head"], fan_in_fan_out=True)
    base = open_weights(tmp_path / "base")  # whose head is tied to the embedding
    with pytest.raises(
        UserError, match=r"no parameter 'lm_head.weight'.*ties it.*untied base.*ignore=\['lm_head.weight'\]"
    ):
        open_weights(tmp_path / "lora", base)
    names = [f"transformer.h.{i}.attn.c_attn.weight" for i in (0, 1)]
    found = open_weights(tmp_path / "lora", base, keep=[names[0]], ignore=["lm_head.*"])
    assert [torch.equal(found[name], base[name]) for name in names] == [True, False]
    with pytest.raises(UserError, match=r"wrong base$"):
        open_weights(tmp_path / "lora", {"other.weight": torch.ones(2, 2)})


@pytest.mark.parametrize(
    "name",
    ["base_model.model.a.lora_A.weight", "unet.a.lora.up.weight", "lora_unet_a.lora_down.weight", "unet.a.hada_w1_a"],
)
def test_factors_without_a_configuration_are_named(tmp_path, name):
    save_file({name: torch.ones(2, 2)}, tmp_path / "factors.safetensors")
    with pytest.raises(UserError, match=r"holds LoRA factors .* no adapter_config.json"):
        open_weights(tmp_path / "factors.safetensors", {"a.weight": torch.ones(2, 2)})
    assert open_weights(
        tmp_path / "factors.safetensors", {name: torch.ones(2, 2)}
    )  # a model with parameters of this name


def test_olora_of_transposed_weights_is_refused(tmp_path):
    model = gpt2(tmp_path / "base")
    chosen = {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True, "init_lora_weights": "olora"}
    trained(model, tmp_path / "lora", r=2, **chosen)
    with pytest.raises(UserError, match=r"OLoRA of 'transformer.h.0.attn.c_proj.weight'"):
        open_weights(tmp_path / "lora", open_weights(tmp_path / "base"))


def test_a_model_and_an_adapter_in_one_folder(tmp_path):
    model = gpt2(tmp_path / "base")
    trained(model, tmp_path / "both", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    base = open_weights(tmp_path / "base")
    save_file(dict(base), tmp_path / "both" / "model.safetensors")
    with pytest.raises(UserError, match=r"both holds a model and an adapter.*model.safetensors or .*adapter_model"):
        open_weights(tmp_path / "both", base)
    adapter = open_weights(tmp_path / "both" / "adapter_model.safetensors", base)
    assert adapter.delta("transformer.h.0.attn.c_attn.weight", torch.float32) is not None
    (tmp_path / "both" / "adapter_model.safetensors").unlink()
    assert type(open_weights(tmp_path / "both", base)) is not type(adapter)


def test_all_tensors_that_an_adapter_cannot_hold_are_named_at_once(tmp_path):
    own = {f"base_model.model.h.{i}.q.lora_{side}.weight": torch.ones(2, 2) for i in range(4) for side in "AB"}
    biases = {f"base_model.model.h.{i}.{part}.bias": torch.ones(2) for i in range(4) for part in ("q", "norm")}
    save_file(own | biases, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    with pytest.raises(UserError, match=r"bias' and 7 more are no LoRA factors.*\"ignore=\['\*.bias'\]\""):
        factors.Adapter.open(tmp_path / "adapter_model.safetensors")
    assert len(factors.Adapter.open(tmp_path / "adapter_model.safetensors", ignore=["*.bias"]).modules) == 4


def test_options_of_other_versions_programs_and_bases(tmp_path, caplog):
    """What PEFT has as options is known; a default that is off means nothing."""
    from dataclasses import fields

    from peft import LoraConfig

    plain_adapter(tmp_path / "lora", "layers.1.fc")
    config = {field.name: None for field in fields(LoraConfig)} | {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
    place = tmp_path / "lora" / "adapter_config.json"
    place.write_text(json.dumps(config | dict.fromkeys(lora_config._IRRELEVANT, "x")))
    base = {"layers.1.fc.weight": torch.ones(8, 8)}
    open_weights(tmp_path / "lora", base)
    assert not caplog.text
    assert config.keys() <= lora_config._READ | lora_config._BEYOND.keys() | lora_config._IRRELEVANT
    place.write_text(json.dumps(config | {"use_new": True, "use_old": False}))
    open_weights(tmp_path / "lora", base)
    assert "has an option 'use_new', which is not known here and is ignored" in caplog.text
    file = tmp_path / "lora" / "adapter_model.safetensors"
    save_file(load_file(file) | {key.replace("1", "2"): part for key, part in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"no parameter 'layers\.2\.fc\.weight' .*; its base has other layers; give"):
        open_weights(tmp_path / "lora", base)
    file.rename(tmp_path / "lora" / "adapters.safetensors")
    with pytest.raises(UserError, match=r"lora is an adapter of MLX; .*mlx_lm\.fuse"):
        open_weights(tmp_path / "lora", base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda key, part: {key: part.int()}, "needs two matrices, lora_A and lora_B"),
        (lambda key, part: {key: part.to(torch.complex64)}, "needs two matrices, lora_A and lora_B"),
        (
            lambda key, part: {key.replace(".weight", f".{name}.weight"): part + 1 for name in ("default", "other")},
            "holds several adapters of 'fc'; save each one alone",
        ),
    ],
)
def test_factors_that_are_none(tmp_path, change, message):
    plain_adapter(tmp_path / "lora", "fc")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({key: part for old, factor in load_file(file).items() for key, part in change(old, factor).items()}, file)
    with pytest.raises(UserError, match=message):
        open_weights(tmp_path / "lora", {"fc.weight": torch.ones(8, 8)})
    with pytest.raises(UserError, match=message):
        factors.Adapter.open(file)
