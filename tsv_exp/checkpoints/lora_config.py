"""What adapter_config.json says of a LoRA adapter, read as PEFT reads it."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank

FILE = "adapter_config.json"
_UNCHANGED = {"true", "false", "gaussian", "eva", "orthogonal", "mica", "none"}  # initializations that keep the base
_BEYOND = {  # options with which the change of a weight is more, or other, than s · B A
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "lora_bias": "biases of factors",
    "layer_replication": "layer replication",
    "alora_invocation_tokens": "invocation tokens",
    "target_parameters": "target_parameters",
    "trainable_token_indices": "trainable tokens",
    "use_bdlora": "block-diagonal factors",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}


@dataclass(frozen=True)
class LoraConfig:
    """The scale of every module's product, and what its initialization took from the base.

    `initialization` is pissa or olora where the adapter's first product was subtracted from the base's weights.
    """

    path: Path
    rank: float
    alpha: float
    rank_pattern: Mapping[str, Any]
    alpha_pattern: Mapping[str, Any]
    rslora: bool
    fan_in_fan_out: bool
    initialization: str

    @classmethod
    def load(cls, folder: Path) -> "LoraConfig":
        """Of the adapter in a folder.

        Raises:
            UserError: it is not LoRA, or a variant whose change of the base's weights is not known from its file.
        """
        path = folder / FILE
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            rank, alpha = float(config["r"]), float(config["lora_alpha"])
            patterns = [dict(config.get(key) or {}) for key in ("rank_pattern", "alpha_pattern")]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} does not describe a LoRA adapter ({error})") from error
        if (kind := config.get("peft_type") or "LORA") != "LORA":
            raise UserError(f"{folder} is an adapter of type {kind}; merge it into its model first")
        unusual = [name for key, name in _BEYOND.items() if config.get(key)]
        if unusual:
            kinds = " and ".join(unusual)
            raise UserError(f"{folder}: adapters with {kinds} are not plain LoRA; merge it into its model first")
        return cls(
            path=folder,
            rank=rank,
            alpha=alpha,
            rank_pattern=patterns[0],
            alpha_pattern=patterns[1],
            rslora=bool(config.get("use_rslora")),
            fan_in_fan_out=bool(config.get("fan_in_fan_out")),
            initialization=_initialization(folder, config.get("init_lora_weights", True)),
        )

    def rank_of(self, module: str) -> float:
        """The rank r of a module, by its name in the model that the adapter was trained on."""
        return self._by_pattern(self.rank_pattern, module, self.rank)

    def scale(self, module: str) -> float:
        """s = α / r, or α / √r for rank-stabilized LoRA (arXiv 2312.03732)."""
        r = self.rank_of(module)
        alpha = self._by_pattern(self.alpha_pattern, module, self.alpha)
        if not r > 0 or not math.isfinite(alpha):
            raise UserError(
                f"{self.path / FILE}: the rank {r:g} or alpha {alpha:g} of {module!r} is none; fetch it again"
            )
        return alpha / (math.sqrt(r) if self.rslora else r)

    def initial(self, weight: Tensor, scale: float, rank: int) -> LowRank | None:
        """s · B₀ A₀ of a weight (out, in): what the initialization subtracted from the base before training.

        PiSSA (arXiv 2404.02948): the top r singular components of the weight. OLoRA (arXiv 2406.01775): s Q_r R_r of
        its thin QR decomposition. PEFT subtracts them from the base whenever such an adapter is loaded.
        """
        if self.initialization == "none":
            return None
        weight = weight.detach().float()
        if self.initialization == "pissa":
            u, s, vh = torch.linalg.svd(weight, full_matrices=False)
            return LowRank(u[:, :rank], s[:rank], vh[:rank])
        q, r = torch.linalg.qr(weight)
        return LowRank(q[:, :rank], torch.full((rank,), scale), r[:rank])

    def _by_pattern(self, patterns: Mapping[str, Any], module: str, default: float) -> float:
        # The first pattern that the whole name matches, or its end after a dot: peft.utils.other.get_pattern_key.
        try:
            for pattern, value in patterns.items():
                if re.match(rf"(.*\.)?({pattern})$", module):
                    return float(value)
        except (re.error, TypeError, ValueError) as error:
            raise UserError(f"{self.path / FILE}: cannot use the pattern {pattern!r} ({error}); mend it") from error
        return default


def _initialization(folder: Path, value: object) -> str:
    name = str(value).lower()
    if name in _UNCHANGED:
        return "none"
    if name in ("pissa", "olora"):
        return name
    remedy = "merge the adapter into the model that it was trained on first"
    if name.startswith(("pissa", "corda", "lora_ga")):
        remedy = "save it again in PEFT with path_initial_model_for_weight_conversion, which makes plain LoRA of it"
    raise UserError(
        f"{folder}: the initialization {value!r} changed the base's weights, and the file does not tell how; {remedy}"
    )
