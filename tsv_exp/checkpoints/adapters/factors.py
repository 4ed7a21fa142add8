"""LoRA adapters without their base model: the low-rank factors."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsv_exp.checkpoints.adapters.changed_model import ChangedModel
from tsv_exp.checkpoints.adapters.lora_config import FILE, LoraConfig
from tsv_exp.checkpoints.readers import read
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank

PREFIX = "base_model.model."  # prefix of module names in PEFT's files
_KEY = re.compile(rf"({re.escape(PREFIX)})?(?P<module>.+)\.lora_(?P<side>[AB])(\.\w+)?\.weight")


@dataclass(frozen=True)
class Adapter:
    """One adapter: its configuration, and per module B (m, r), A (r, n) and the scale s in s · B A."""

    path: Path
    config: Mapping[str, Any]
    modules: Mapping[str, tuple[Tensor, Tensor, float]]

    @classmethod
    def open(cls, file: Path) -> "Adapter":
        """Open an adapter file that PEFT wrote, with the configuration next to it.

        Raises:
            UserError: it is damaged, or contains more than low-rank updates of matrices.
        """
        path = file.parent
        lora = LoraConfig.load(path)
        if lora.initialization != "none":
            raise UserError(
                f"{path}: its initialization ({lora.initialization}) was taken from the base; form=lora takes plain "
                "LoRA adapters: save it again in PEFT with path_initial_model_for_weight_conversion"
            )
        config = json.loads((path / FILE).read_text(encoding="utf-8"))
        tensors, sides = read(file), dict[str, dict[str, Tensor]]()
        for key in tensors:
            match = _KEY.fullmatch(key)
            if not match:
                raise UserError(f"{path}: the tensor {key!r} is not a LoRA factor; form=lora takes plain LoRA adapters")
            sides.setdefault(match["module"], {})[match["side"]] = tensors[key]
        modules = {}
        for module, pair in sides.items():
            if set(pair) != {"A", "B"} or any(factor.dim() != 2 for factor in pair.values()):
                raise UserError(f"{path}: {module!r} needs two matrices, lora_A and lora_B; leave this adapter out")
            modules[module] = pair["B"], pair["A"], lora.scale(module)
        return cls(path, config, modules)


class FactoredModel(ChangedModel):
    """An adapter in the form of a model: zeros of the shapes of `base` plus the adapter's products."""

    def __init__(self, adapter: Adapter, base: Mapping[str, Tensor]) -> None:
        super().__init__(adapter.path, base)
        self.adapter = adapter

    def factors(self, name: str, dtype: torch.dtype) -> LowRank:
        """The change of a weight as u (m, r), s (r,), vh (r, n), not orthonormal; r = 0 if there is none."""
        found = self.adapter.modules.get(name.removesuffix(".weight"))
        if found is None:
            return self._no_change(name, dtype)
        b, a, scale = found
        return LowRank(b.to(dtype), torch.full((b.shape[1],), scale, dtype=dtype), a.to(dtype))

    def delta(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """The change of a weight in `dtype`, or None if there is none."""
        return self.factors(name, dtype).dense() if name.removesuffix(".weight") in self.adapter.modules else None

    def __getitem__(self, name: str) -> Tensor:
        return self.factors(name, torch.float32).dense()


def stand_in(adapters: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """Zeros that use no memory, as a base: one <module>.weight (out, in) for each weight that the adapters change.

    Raises:
        UserError: a module has different shapes in two adapters, or two adapters share no module.
    """
    base: dict[str, Tensor] = {}
    for task, adapter in adapters.items():
        if base and not any(f"{module}.weight" in base for module in adapter.modules):
            raise UserError(
                f"model {task!r} ({adapter.path}) changes no module that the adapters before it change "
                f"({next(iter(adapter.modules))}, ...); they belong to different models"
            )
        for module, (b, a, _) in adapter.modules.items():
            shape, name = torch.Size((b.shape[0], a.shape[1])), f"{module}.weight"
            if base.setdefault(name, torch.zeros(()).expand(shape)).shape != shape:
                raise UserError(
                    f"model {task!r} ({adapter.path}) changes {module!r} of shape {tuple(shape)}, the adapters before "
                    f"it {tuple(base[name].shape)}; they belong to different models"
                )
    return base
