"""Small LoRA adapters that PEFT itself wrote, on a small Llama that transformers wrote."""

from pathlib import Path

import torch


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
