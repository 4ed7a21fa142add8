"""Adapters of an embedding to which the base ties its output head, as PEFT applies them."""

import json
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import save_file

from tsv_exp import UserError
from tsv_exp.checkpoints.adapters.tied import check_head
from tsv_exp.checkpoints.sources import open_weights

pytestmark = [  # what the two libraries say of each other
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*(fan_in_fan_out|tie|config file|save_embedding_layers):UserWarning"),
]


@pytest.mark.parametrize(
    ("options", "untie", "refused"),
    [
        ({"modules_to_save": ["embed_tokens"]}, False, True),
        ({"target_modules": ["q_proj", "embed_tokens"]}, False, True),
        ({"modules_to_save": ["embed_tokens"]}, True, False),
        ({"target_modules": ["q_proj", "embed_tokens"]}, True, False),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, False, False),
        ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, False, False),
    ],
)
def test_an_embedding_to_which_the_base_ties_its_head(tmp_path, options, untie, refused):
    """PEFT's adapter leaves the head as it was, so that the merged model needs one of its own."""
    import peft
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=30,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    if untie:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
        model.save_pretrained(tmp_path / "base")
    adapter = peft.get_peft_model(model, peft.LoraConfig(r=2, **{"target_modules": ["q_proj"]} | options))
    for parameter in adapter.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter) * parameter.requires_grad
    adapter.save_pretrained(tmp_path / "lora")
    base = open_weights(tmp_path / "base")
    if refused:
        with pytest.raises(UserError, match=r"changes the embedding .* and not the output head"):
            open_weights(tmp_path / "lora", base)
        open_weights(tmp_path / "lora", base, ignore=["model.embed_tokens.weight"])
        return
    merged, other = (transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base") for _ in range(2))
    adapter = peft.PeftModel.from_pretrained(other, tmp_path / "lora").eval()
    weights = open_weights(tmp_path / "lora", base)
    merged.load_state_dict({name: weights[name] for name in base}, strict=False)
    tokens = torch.arange(9).view(1, -1)
    torch.testing.assert_close(merged(tokens).logits, adapter(tokens).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_keys_that_are_deep_in_the_configuration(tmp_path, tied):
    """As in the configurations of models with a thinker and a talker."""
    save_file({"embed.weight": torch.ones(9, 2)}, tmp_path / "model.safetensors")
    text = {"vocab_size": 9, "tie_word_embeddings": tied}
    config = {"architectures": ["XForConditionalGeneration"], "thinker_config": {"text_config": text}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"changes the embedding 'embed\.weight'") if tied else nullcontext():
        check_head(tmp_path, open_weights(tmp_path), ["embed.weight"])


@pytest.mark.parametrize("kinds", [None, True, [], {"a": 1}, "XForCausalLM", [3]])
def test_architectures_of_another_kind(tmp_path, kinds):
    save_file({"embed.weight": torch.ones(9, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": kinds, "vocab_size": 9}))
    check_head(tmp_path, open_weights(tmp_path), ["embed.weight"])
