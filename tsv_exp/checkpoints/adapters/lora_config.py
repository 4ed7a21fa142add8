"""The configuration of a LoRA adapter (adapter_config.json), interpreted as PEFT does."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import regex
import torch
from torch import Tensor

from tsv_exp.checkpoints.adapters.attention import target_of
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merging.inputs.remedies import listed
from tsv_exp.storage.json_files import read_object

log = logging.getLogger(__name__)

FILE = "adapter_config.json"
MATCHING = 0.2  # seconds per match: a malicious regular expression can run forever
_LARGEST = 1e9  # largest rank or alpha
_LONGEST = 1000  # longest pattern, in characters
_VERSION = 40  # longest version
_UNCHANGED = {
    "true",
    "false",
    "gaussian",
    "eva",
    "orthogonal",
    "mica",
    "none",
}  # initializations that leave the base unchanged
_PROMPTS = {"PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"}
_REMEDY = "merge it into its model (PEFT's merge_and_unload), save that with save_pretrained, and give that folder"
_BEYOND = {  # options with which the change of a weight is not just s · B A
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "lora_bias": "biases of factors",
    "layer_replication": "layer replication",
    "trainable_token_indices": "trainable tokens",
    "use_bdlora": "block-diagonal factors",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
_READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"}
_READ |= {"fan_in_fan_out", "ensure_weight_tying", "alora_invocation_tokens", "target_parameters", "peft_version"}
_IRRELEVANT = {  # they select modules, or act on training only
    *("task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
    *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "bias"),
    *("lora_dropout", "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config"),
    *("lora_ga_config", "velora_config", "qalora_group_size", "runtime_config"),
}


@dataclass(frozen=True)
class LoraConfig:
    """The scale of every module's product, and what its initialization subtracted from the base.

    `initialization` is pissa or olora if the adapter's initial product was subtracted from the base's weights. `tied`:
    weights that the base ties were trained as one. `parameters`: names of those that it changes by name, whole or their
    ends. `version`: PEFT's, if it is known.
    """

    path: Path
    rank: float
    alpha: float
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    fan_in_fan_out: bool
    initialization: str
    tied: bool = False
    parameters: tuple[str, ...] = ()
    version: str = ""

    @classmethod
    def load(cls, folder: Path) -> "LoraConfig":
        """Load the configuration of the adapter in a folder.

        Raises:
            UserError: it is not LoRA, or a variant whose change of the base's weights cannot be computed from the file.
        """
        path = folder / FILE
        try:
            config = read_object(path)
            if (kind := config.get("peft_type") or "LORA") != "LORA":
                remedy = "it changes no weights; leave it out" if str(kind) in _PROMPTS else _REMEDY
                raise UserError(f"{folder} is an adapter of type {kind}; {remedy}")
            rank, alpha = _number(config, "r"), _number(config, "lora_alpha")
            patterns = [_patterns(config, key) for key in ("rank_pattern", "alpha_pattern")]
            parameters = _names(config, "target_parameters")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} does not describe a LoRA adapter ({error})") from error
        if config.get("alora_invocation_tokens"):
            raise UserError(
                f"{folder}: an activated adapter (alora_invocation_tokens) acts only after its tokens, so that no "
                "weights are equal to it; leave it out"
            )
        unusual = [name for key, name in _BEYOND.items() if config.get(key)]
        if unusual:
            kinds = " and ".join(unusual)
            raise UserError(f"{folder}: adapters with {kinds} are not plain LoRA; {_REMEDY}")
        if unknown := [
            key for key, value in config.items() if value and key not in _READ | _BEYOND.keys() | _IRRELEVANT
        ]:
            _warn(f"{path} has an option {listed(unknown)}, which is not known here and is ignored")
        return cls(
            path=folder,
            rank=rank,
            alpha=alpha,
            rank_pattern=patterns[0],
            alpha_pattern=patterns[1],
            rslora=bool(config.get("use_rslora")),
            fan_in_fan_out=bool(config.get("fan_in_fan_out")),
            initialization=_initialization(folder, config.get("init_lora_weights", True)),
            tied=bool(config.get("ensure_weight_tying")),
            parameters=parameters,
            version=str(config.get("peft_version") or "")[:_VERSION],
        )

    def rank_of(self, module: str) -> float:
        """The rank r of a module, by its name in the model that the adapter was trained on."""
        return self._by_pattern(self.rank_pattern, module, self.rank)

    def check_rank(self, module: str, b: Tensor, a: Tensor, count: int = 1) -> None:
        """Raise a UserError if the factors B (m, r), A (r, n) of a module have another rank than configured.

        The factors of `count` matrices, which are stored as two, have that rank for each.
        """
        rank = self.rank_of(module) * count
        if not a.shape[0] == b.shape[1] == rank or rank % count:
            raise UserError(
                f"{self.path}: the factors of {module!r} have rank {a.shape[0]} and {b.shape[1]}, its configuration "
                f"says {rank:g}; fetch it again"
            )

    def scale(self, module: str) -> float:
        """s = α / r, or α / √r for rank-stabilized LoRA (arXiv 2312.03732)."""
        r = self.rank_of(module)
        alpha = self._by_pattern(self.alpha_pattern, module, self.alpha)
        if not r > 0 or not math.isfinite(alpha):
            raise UserError(
                f"{self.path / FILE}: the rank {r:g} or alpha {alpha:g} of {module!r} is not valid; fetch it again"
            )
        return alpha / (math.sqrt(r) if self.rslora else r)

    def initial(self, weight: Tensor, scale: float, rank: int) -> LowRank | None:
        """s · B₀ A₀ for a weight (out, in): what the initialization subtracted from the base before training.

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

    def _by_pattern(self, patterns: Mapping[str, float], module: str, default: float) -> float:
        # The first pattern that matches the whole name or its end after a dot: peft.utils.other.get_pattern_key.
        module = target_of(module)
        try:
            for pattern, value in patterns.items():
                if regex.match(rf"(.*\.)?({pattern})$", module, timeout=MATCHING):
                    return value
        except (regex.error, TimeoutError, RecursionError) as error:
            raise UserError(f"{self.path / FILE}: cannot use the pattern {pattern!r} ({error}); correct it") from error
        return default


def changes_base(folder: Path) -> bool:
    """Whether the initialization of the adapter in a folder changed the weights of its base."""
    return LoraConfig.load(folder).initialization != "none"


def base_of(folder: Path) -> str:
    """The base that the adapter in a folder names, or an empty text."""
    return str(read_object(folder / FILE).get("base_model_name_or_path") or "")


@cache  # once per adapter, whose configuration may be loaded several times
def _warn(message: str) -> None:
    log.warning(message)


def _number(config: Mapping[str, Any], key: str) -> float:
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise ValueError(f"{key} is {str(value)[:40]!r}, not a valid number")
    return float(value)


def _patterns(config: Mapping[str, Any], key: str) -> dict[str, float]:
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{key} is not a table of patterns and numbers")
    if any(len(pattern) > _LONGEST for pattern in found):
        raise ValueError(f"{key} has a pattern of more than {_LONGEST} characters")
    return {pattern: _number(found, pattern) for pattern in found}


def _names(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = config.get(key) or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{key} is not a list of names")
    return tuple(found)


def _initialization(folder: Path, value: object) -> str:
    name = str(value).lower()
    if name in _UNCHANGED:
        return "none"
    if name in ("pissa", "olora"):
        return name
    remedy = _REMEDY
    if name.startswith(("pissa", "corda", "lora_ga")):
        remedy = "save it again in PEFT with path_initial_model_for_weight_conversion, which converts it to plain LoRA"
    raise UserError(
        f"{folder}: the initialization {value!r} changed the base's weights, and the file does not say how; {remedy}"
    )
