"""form=lora from whole models: the modules that PEFT changes, under the names that it looks for."""

import json

import pytest
import torch
from adapters import agree
from safetensors.torch import load_file, save_file

from tsv_exp import UserError
from tsv_exp.checkpoints.readers import read
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:peft", "ignore::DeprecationWarning", "ignore::FutureWarning"
)


def test_extraction_of_layers_that_are_stored_transposed(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=30, n_positions=8)).save_pretrained(
            tmp_path / name
        )
    words = [f"base={tmp_path / 'base'}", f"models=[{tmp_path / 'a'},{tmp_path / 'b'}]", "method=task_arithmetic"]
    run(parse([*words, f"out={tmp_path / 'lora'}", "form=lora", "rank=16"]))
    run(parse([*words, f"out={tmp_path / 'dense'}"]))
    agree(tmp_path / "lora", tmp_path / "dense", tmp_path / "base", 4, transposed=True)
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["fan_in_fan_out"]
    base = load_file(tmp_path / "base" / "model.safetensors")
    save_file({name: weight for name, weight in base.items() if "bias" not in name}, tmp_path / "unknown.safetensors")
    unknown = [f"{key}={tmp_path / 'unknown.safetensors'}" for key in ("base", "models")]
    with pytest.raises(UserError, match=r"may be stored transposed .* config.json"):
        run(parse([*unknown, f"out={tmp_path / 'none'}", "form=lora", "rank=2"]))


def moe(kind, **sizes):
    import transformers

    common = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    config = getattr(transformers, f"{kind}Config")(**common, num_key_value_heads=2, intermediate_size=12, **sizes)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


@pytest.mark.parametrize(
    ("kind", "sizes", "left"),
    [
        (
            "Qwen2Moe",
            {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "num_experts": 2},
            {"mlp.gate", "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"},
        ),
        ("GptOss", {"head_dim": 4, "num_local_experts": 2}, {"mlp.router"}),
    ],
)
def test_what_peft_cannot_change_in_a_model_with_experts_is_left_out(tmp_path, kind, sizes, left, capsys):
    from peft import PeftModel

    for name in ("base", "tuned"):
        moe(kind, **sizes).save_pretrained(tmp_path / name)
    words = ["method=weight_average", "form=lora", "rank=1", f"out={tmp_path / 'lora'}"]
    run(parse([f"base={tmp_path / 'base'}", f"models={tmp_path / 'tuned'}", *words]))
    base, found = read(tmp_path / "base"), load_file(tmp_path / "lora" / "adapter_model.safetensors")
    modules = {key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in found}
    linear = {name.removesuffix(".weight") for name in base if base[name].dim() == 2 and name.endswith(".weight")}
    assert linear - modules == {"model.embed_tokens"} | {f"model.layers.0.{name}" for name in left}
    assert "tensors not in the adapter, also where models change them: " in capsys.readouterr().err
    model = PeftModel.from_pretrained(moe(kind, **sizes), tmp_path / "lora")
    loaded = {name for name, weight in model.named_parameters() if "lora_B" in name and weight.any()}
    assert sum("self_attn" in name for name in loaded) == 4


def test_an_adapter_from_a_model_that_transformers_renames_in_memory(tmp_path):
    from peft import PeftModel
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = ViTConfig(**sizes, image_size=4, patch_size=2)
    base, tuned = ViTModel(config), ViTModel(config)
    base.save_pretrained(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "tuned")
    words = [f"base={tmp_path / 'base'}", f"models=[{tmp_path / 'tuned'}]", f"out={tmp_path / 'out'}"]
    run(parse([*words, "form=lora", "rank=8", "method=weight_average"]))
    wanted = {name: weight for name, weight in tuned.state_dict().items() if weight.dim() == 2}
    merged = PeftModel.from_pretrained(base, tmp_path / "out").merge_and_unload().state_dict()
    assert len(wanted) == 7
    for name, weight in wanted.items():
        torch.testing.assert_close(merged[name], weight)


def test_what_peft_cannot_change_in_a_state_space_model_is_left_out(tmp_path, capsys):
    """PEFT refuses Mamba's out_proj, and its dt_proj is multiplied without PEFT's factors."""
    from peft import PeftModel
    from transformers import MambaConfig, MambaForCausalLM

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 9, "state_size": 2, "time_step_rank": 2}
    base, dense = MambaForCausalLM(MambaConfig(**sizes)), MambaForCausalLM(MambaConfig(**sizes))
    dense.load_state_dict(base.state_dict())
    mixer = dense.backbone.layers[0].mixer
    for part in (mixer.in_proj, mixer.x_proj):
        part.weight.data += 0.3 * torch.randn_like(part.weight)
    base.save_pretrained(tmp_path / "base")
    dense.save_pretrained(tmp_path / "tuned")
    words = [f"base={tmp_path / 'base'}", f"models={tmp_path / 'tuned'}", f"out={tmp_path / 'lora'}"]
    run(parse([*words, "method=weight_average", "form=lora", "rank=8"]))
    line = next(line for line in capsys.readouterr().err.splitlines() if "tensors not in the adapter" in line)
    assert all(f"backbone.layers.*.mixer.{name}.weight" in line for name in ("dt_proj", "out_proj"))
    adapted, tokens = PeftModel.from_pretrained(base, tmp_path / "lora").eval(), torch.arange(6).view(1, -1)
    torch.testing.assert_close(adapted(tokens).logits, dense.eval()(tokens).logits, rtol=1e-4, atol=1e-5)
