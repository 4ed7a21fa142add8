"""Small LoRA adapters that PEFT itself wrote, on a small Llama that transformers wrote."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FILES = ("adapter_model.safetensors", "model.safetensors", "model.safetensors")


def llama(folder: Path, seed: int = 0):
    """A causal language model of two layers in `folder`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model


def adapter(base: Path, folder: Path, seed: int, rank: int = 3, **options):
    """A LoRA adapter of random factors on the model of `base`, saved in `folder`."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    options = {"target_modules": ["q_proj", "v_proj", "down_proj"], "lora_alpha": 2 * rank} | options
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=rank, **options))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)


def logits(model) -> torch.Tensor:
    """What a language model answers to a fixed text."""
    with torch.inference_mode():
        return model(torch.arange(12).view(1, -1)).logits


def plain_adapter(folder, module, size=8):
    """An adapter of rank 1 of one square module."""
    folder.mkdir()
    key = f"base_model.model.{module}"
    factors = {f"{key}.lora_A.weight": torch.ones(1, size), f"{key}.lora_B.weight": torch.ones(size, 1)}
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')


def configure(folder: Path, **options) -> None:
    """Change the configuration of an adapter."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))


def agree(lora, dense, base, changed, transposed=False):
    """That B A of every module is the change of its weight, of so many weights."""
    factors, merged, start = (load_file(folder / file) for folder, file in zip((lora, dense, base), FILES, strict=True))
    modules = [
        key.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for key in factors if "lora_A" in key
    ]
    for module in modules:
        b, a = (factors[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "BA")
        delta = merged[f"{module}.weight"].double() - start[f"{module}.weight"].double()
        assert ((b @ a).mT if transposed else b @ a).sub(delta).norm() < 1e-5 * delta.norm()
    assert len(modules) == changed
