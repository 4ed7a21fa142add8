"""Writes trained low-rank factors as an adapter in PEFT's format: a folder with configuration and factors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from tsv_exp.checkpoints.adapters.factors import PREFIX
from tsv_exp.checkpoints.adapters.lora_config import FILE
from tsv_exp.errors import UserError
from tsv_exp.merging.results.across import layer_kind
from tsv_exp.storage.files import atomic
from tsv_exp.storage.tensor_files import save

WEIGHTS = "adapter_model.safetensors"


def check_adaptable(encoder: nn.Module, names: Sequence[str]) -> None:
    """Check that PEFT can apply factors of these parameters.

    Raises:
        UserError: some of them are no weights of plain linear layers.
    """

    def adaptable(name: str) -> bool:
        module, _, leaf = name.rpartition(".")
        return leaf == "weight" and type(encoder.get_submodule(module)) is nn.Linear

    unfit, fit = (dict.fromkeys(layer_kind(n) for n in names if adaptable(n) == good) for good in (False, True))
    if unfit:
        rest = ", ".join(kind for kind in fit if kind not in unfit)
        others = f'give "finetune.lora.targets=[{rest}]", or ' if rest else ""
        raise UserError(
            f"adapter=true: PEFT has factors for plain linear layers only, not for {', '.join(unfit)}; "
            f"{others}leave adapter=true out"
        )


def write_adapter(
    folder: Path, factors: Mapping[str, tuple[Tensor, Tensor]], rank: int, scale: float, base: str | None
) -> None:
    """Write adapter_config.json, then the factors.

    Args:
        folder: created if missing.
        factors: B (m, r) and A (r, n) by the name of their weight, <module>.weight.
        rank: r.
        scale: s of the change s · B A.
        base: path or repository of the base, if it has one.

    Raises:
        UserError: a file cannot be written.
    """
    modules = [name.removesuffix(".weight") for name in factors]
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "target_modules": sorted(modules),
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    tensors: dict[str, Tensor] = {}
    for module, (b, a) in zip(modules, factors.values(), strict=True):
        tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
    with atomic(folder / FILE) as path:
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    with atomic(folder / WEIGHTS) as path:
        save(path, tensors)
