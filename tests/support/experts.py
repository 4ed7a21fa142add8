"""Small mixtures of experts of transformers, and adapters of their parameters that PEFT wrote."""

from pathlib import Path

import torch

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 1, "vocab_size": 30}
SOME = {"num_experts": 4, "num_experts_per_tok": 2}
PARAMETERS = ["experts.gate_up_proj", "experts.down_proj"]

# architecture: the sizes of its configuration, and the options of an adapter
KINDS = {
    # PEFT makes target_parameters of these modules; the file has one tensor per expert
    "Qwen3Moe": (
        {"moe_intermediate_size": 12, "head_dim": 8, "mlp_only_layers": [1]} | SOME,
        {
            "target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj", "gate"],
            "rank_pattern": {"mlp.experts.down_proj": 5},
            "alpha_pattern": {"q_proj": 7},
        },
    ),
    "Mixtral": ({"num_local_experts": 4}, {"target_modules": ["q_proj", "w1", "w2", "w3"], "use_rslora": True}),
    # square matrices, as out and in
    "Olmoe": ({"intermediate_size": 8} | SOME, {"target_modules": [], "target_parameters": PARAMETERS}),
    # square matrices, as in and out, and a 2-D parameter that is no weight; the file has one tensor for all experts
    "GptOss": (
        {"intermediate_size": 16, "num_local_experts": 4, "head_dim": 8, "layer_types": ["full_attention"] * 2},
        {
            "target_modules": ["q_proj"],
            "target_parameters": [*PARAMETERS, "gate_up_proj_bias", "router.weight"],
            "rank_pattern": {"mlp.experts.gate_up_proj": 2},
        },
    ),
    # other names in the file
    "GraniteMoe": ({"num_local_experts": 4}, {"target_modules": ["q_proj"], "target_parameters": PARAMETERS}),
}


def mixture(kind: str, folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **sizes):
    """A language model in `folder`."""
    import transformers  # slow, as is peft

    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**SIZES | KINDS[kind][0] | sizes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype)
    model.save_pretrained(folder)
    return model


def adapt(base: Path, folder: Path, merged: Path, seed: int = 0, **options) -> None:
    """An adapter of random factors in `folder`, and the model with it that PEFT makes in `merged`."""
    import peft
    import transformers

    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    adapter = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, **options))
    adapter.save_pretrained(folder)
    adapter.merge_and_unload().save_pretrained(merged)
