"""LoRA adapters as PEFT writes them (arXiv 2106.09685): a model whose task vectors are known exactly."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank

_KEY = re.compile(r"(base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(\.\w+)?\.weight")


class Adapter(Mapping[str, Tensor]):
    """The weights θ_pre + s · B A of an adapter on its base; `delta` gives the second term as it is.

    Raises:
        UserError: the adapter is of a kind other than plain LoRA on linear layers, or of another base.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
        self.path, self._base = path, base
        try:
            config: dict[str, Any] = json.loads((path / "adapter_config.json").read_text())
            rank, alpha = float(config["r"]), float(config["lora_alpha"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path / 'adapter_config.json'} does not describe a LoRA adapter ({error})") from error
        if config.get("use_dora") or config.get("bias", "none") != "none":
            raise UserError(f"{path}: adapters with DoRA or biases are not low-rank; merge them into their model first")
        self._transposed = bool(config.get("fan_in_fan_out"))
        sides: dict[str, dict[str, Tensor]] = {}
        for key in tensors:
            match = _KEY.fullmatch(key)
            if not match:
                raise UserError(
                    f"{path}: the tensor {key!r} is not a LoRA factor; merge the adapter into its model first"
                )
            sides.setdefault(_parameter(path, match["module"], base), {})[match["side"]] = tensors[key]
        self._factors: dict[str, tuple[Tensor, Tensor, float]] = {}
        for name, pair in sides.items():
            if set(pair) != {"A", "B"} or any(factor.dim() != 2 for factor in pair.values()):
                raise UserError(f"{path}: {name!r} needs two matrices, lora_A and lora_B; merge the adapter first")
            module = name.removesuffix(".weight")
            r = _pattern(config.get("rank_pattern"), module, rank)
            scale = _pattern(config.get("alpha_pattern"), module, alpha) / (
                math.sqrt(r) if config.get("use_rslora") else r
            )
            self._factors[name] = pair["B"], pair["A"], scale
            if self._shape(name) != base[name].shape:
                raise UserError(
                    f"{path}: {name!r} does not have the base's shape {tuple(base[name].shape)}; wrong base"
                )

    def _shape(self, name: str) -> torch.Size:
        b, a, _ = self._factors[name]
        return torch.Size((a.shape[1], b.shape[0]) if self._transposed else (b.shape[0], a.shape[1]))

    def file_of(self, name: str) -> Path:
        """The adapter's folder, for errors."""
        return self.path

    def delta(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """s · B A in `dtype`, or None where the adapter leaves a weight as it is."""
        if name not in self._factors:
            return None
        b, a, scale = self._factors[name]
        product = b.to(dtype) @ (a.to(dtype) * scale)
        return product.mT if self._transposed else product

    def factors(self, name: str, dtype: torch.dtype) -> LowRank:
        """The delta as factors u (m, r), s (r,), vh (r, n), not orthonormal; r = 0 where there is no change."""
        if name not in self._factors:
            m, n = self._base[name].shape
            return LowRank(*(torch.zeros(shape, dtype=dtype) for shape in ((m, 0), (0,), (0, n))))
        b, a, scale = self._factors[name]
        left, right = (a.mT, b.mT) if self._transposed else (b, a)
        return LowRank(left.to(dtype), torch.full((left.shape[1],), scale, dtype=dtype), right.to(dtype))

    def __getitem__(self, name: str) -> Tensor:
        weight = self._base[name]
        delta = self.delta(name, torch.promote_types(weight.dtype, torch.float32))
        return weight if delta is None else weight.to(delta.dtype) + delta

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)

    def __contains__(self, name: object) -> bool:
        return name in self._base


def _parameter(path: Path, module: str, base: Mapping[str, Tensor]) -> str:
    """The base's parameter of a module; bases are saved with and without the prefix of their task head."""
    candidates = [f"{module}.weight", f"{module.partition('.')[2]}.weight", f"model.{module}.weight"]
    for name in candidates:
        if name in base:
            return name
    raise UserError(f"{path}: the base has no parameter {candidates[0]!r} that the adapter changes; wrong base")


def _pattern(patterns: Mapping[str, Any] | None, module: str, default: float) -> float:
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return float(value)
    return float(default)
