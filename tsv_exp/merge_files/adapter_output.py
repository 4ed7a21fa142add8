"""form=lora: writes the merge as one LoRA adapter for PEFT, with B A of every module as its task vector."""

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsv_exp.checkpoints.adapters.attention import attention_weights, target_of
from tsv_exp.checkpoints.adapters.conv1d import known_conv1d_weights
from tsv_exp.checkpoints.adapters.factors import PREFIX
from tsv_exp.checkpoints.configuration import Configuration
from tsv_exp.checkpoints.loaded_names import adaptable_weights
from tsv_exp.decompositions.algebra import product_svd
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merge_files.options.options import DTYPES
from tsv_exp.merge_files.records.measures import Measured, square
from tsv_exp.merge_files.work import Advance, Content, Work, checked
from tsv_exp.merging.inputs.alignment import matches
from tsv_exp.merging.layer import Layer
from tsv_exp.storage.files import atomic

# embedding matrices of models that transformers does not know: PEFT's LoRA for linear layers does not apply to them
_EMBEDDINGS = ("*embed*", "*wte.weight", "*wpe.weight", "*shared.weight", "*relative_attention_bias*")
_NARROWING = ("layers_to_transform", "exclude_modules")  # what else selects modules in an adapter's configuration


@dataclass
class LoraAdapter:
    """An adapter of rank Σ r_i per module, which is exact, or of the given rank.

    Raises:
        UserError: the merge is not of low rank and no rank is given, or how the base's layers are stored is unknown.
    """

    work: Work

    def __post_init__(self) -> None:
        self.stem, self.limit = "adapter_model", math.inf
        self.configuration: Configuration | None = None
        work, stream = self.work, self.work.stream
        self.own = self._own_names()
        self.names = [name for name in stream.names if name in self.own and stream.base[name].dim() == 2]
        if not self.names:
            raise UserError("form=lora: the base has no 2-D weight of a linear layer (<module>.weight)")
        for rule in {work.plan.rule(name) for name in self.names}:
            if rule.rank is None and not (work.inputs.adapters and rule.method.merges_products):
                reason = f"a merge by {rule.method.name}" if work.inputs.adapters else "a merge of whole models"
                raise UserError(f"form=lora: {reason} is not of low rank; give rank=R, such as rank=32")
        self.transposed = set() if work.inputs.adapters else known_conv1d_weights(stream.base, "form=lora")
        self.ranks = {name: self._rank(name) for name in self.names}
        self.sizes = {name: self._bytes(name) for name in self.names}

    def _own_names(self) -> dict[str, str]:
        """The name of which PEFT makes that of the factors, for each weight that it can change."""
        base = self.work.stream.base
        if self.work.inputs.adapters:  # they have factors for it, whatever its name
            return {name: name for name in base}
        known = adaptable_weights(base)
        if known is not None:
            return known
        attention = attention_weights(base)
        linear = (name for name in base if name.endswith(".weight") and not matches(name, _EMBEDDINGS))
        own = {name: name for name in linear if name not in attention}
        return own | {name: f"{module}.weight" for name, module in attention.items() if module is not None}

    def _rank(self, name: str) -> int:
        rule, bounds = self.work.plan.rule(name), [min(self.work.stream.base[name].shape)]
        if rule.rank is not None:
            bounds.append(rule.rank)
        if self.work.inputs.adapters and rule.method.merges_products:
            module = name.removesuffix(".weight")
            bounds.append(sum(adapter.rank(module) for adapter in self.work.inputs.adapters.values()))
        return min(bounds)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a module's factors: as configured, else that of the adapters."""
        module = name.removesuffix(".weight")
        theirs = {a.modules[module][0].dtype for a in self.work.inputs.adapters.values() if module in a.modules}
        own = _common_dtype(theirs or {self.work.stream.base[name].dtype})
        return DTYPES[self.work.options.dtype] if self.work.options.dtype else own

    def _module(self, name: str) -> str:
        """The module of a weight: in the adapters, or as transformers names it in memory."""
        return self.own[name].removesuffix(".weight")

    def _module_shape(self, name: str) -> tuple[int, int]:
        """(out, in) of a module; its weight may be stored transposed."""
        m, n = self.work.stream.base[name].shape
        return (n, m) if name in self.transposed else (m, n)

    def _bytes(self, name: str) -> int:
        return self.ranks[name] * sum(self.work.stream.base[name].shape) * self.dtype(name).itemsize

    def content(self, names: Sequence[str], advance: Advance) -> Content:
        """lora_A (r, n) and lora_B (m, r) of every module."""
        announced: dict[str, tuple[torch.dtype, tuple[int, int]]] = {}
        for name in names:
            (m, n), r, key = self._module_shape(name), self.ranks[name], f"{PREFIX}{self._module(name)}"
            announced[f"{key}.lora_A.weight"] = self.dtype(name), (r, n)
            announced[f"{key}.lora_B.weight"] = self.dtype(name), (m, r)

        def tensors() -> Iterator[Tensor]:
            for a, b in self.work.merged_layers(self._factored, names, advance):
                yield a
                yield b

        return announced, tensors()

    def _factored(self, layer: Layer, found: Measured) -> tuple[Tensor, Tensor]:
        """A and B with B A = α · merge, truncated to the module's rank; each side is scaled by √σ."""
        name, merged = layer.name, self.work.merged(layer, found)
        shape, rank = self.work.stream.base[name].shape, self.ranks[name]
        m, n = self._module_shape(name)
        if isinstance(merged, LowRank):
            u, s, vh = product_svd(merged, shape)
            found.merged = float(s.square().sum())
        else:
            assert isinstance(merged, Tensor)
            u, s, vh = (part[0].double() for part in self.work.algebra.truncated_svd(merged.unsqueeze(0), rank))
            found.merged = square(merged)
        kept = min(rank, len(s))
        found.lost = max(0.0, found.merged - float(s[:kept].square().sum()))
        found.rank = rank
        roots = (abs(found.alpha) * s[:kept]).sqrt()
        if name in self.transposed:
            u, vh = vh.mT, u.mT
        a, b = vh.new_zeros(rank, n), u.new_zeros(m, rank)
        a[:kept], b[:, :kept] = roots.unsqueeze(1) * vh[:kept], math.copysign(1, found.alpha) * u[:, :kept] * roots
        return checked(name, a.to("cpu", self.dtype(name))), checked(name, b.to("cpu", self.dtype(name)))

    def describe(self, folder: Path, _: Mapping[str, str]) -> None:
        """Write PEFT's adapter_config.json; the factors include the scale, so every module has α = r."""
        with atomic(folder / "adapter_config.json") as path:
            path.write_text(json.dumps(self._config(), indent=2, sort_keys=True))

    def _config(self) -> dict[str, Any]:
        modules = {target_of(self._module(name)): rank for name, rank in self.ranks.items()}
        configs = [dict(adapter.config) for adapter in self.work.inputs.adapters.values()]
        changed = {target_of(module) for adapter in self.work.inputs.adapters.values() for module in adapter.modules}
        most = max(modules.values())
        # anchored: PEFT compares ends of names too, and those of one tower may be ends of the other's
        others = {f"^{re.escape(module)}": rank for module, rank in modules.items() if rank != most}
        return {
            "peft_type": "LORA",
            "task_type": _common(configs, "task_type"),
            "base_model_name_or_path": self.work.options.base or _common(configs, "base_model_name_or_path"),
            "target_modules": _targets(configs, modules, changed),
            "r": most,
            "lora_alpha": most,
            "rank_pattern": others,
            "alpha_pattern": others,
            "fan_in_fan_out": bool(_common(configs, "fan_in_fan_out") or self.transposed),
            "lora_dropout": 0.0,
            "bias": "none",
            "inference_mode": True,
        }


def _common_dtype(dtypes: Collection[torch.dtype]) -> torch.dtype:
    """A dtype that holds the values of all; torch does not promote 8-bit floats, which bfloat16 holds."""
    wide = [dtype if len(dtypes) == 1 or dtype.itemsize > 1 else torch.bfloat16 for dtype in dtypes]
    return reduce(torch.promote_types, wide)


def _targets(configs: Sequence[dict[str, Any]], merged: Iterable[str], all_modules: set[str]) -> list[str]:
    """The adapters' lists of module names if these name only what is merged, else the full name of every module."""
    lists = [config.get("target_modules") for config in configs]
    narrowed = any(config.get(key) for config in configs for key in _NARROWING)
    listed = all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists)
    if lists and listed and not narrowed and all_modules == set(merged):
        return sorted({name for names in lists for name in names or ()})
    return sorted(merged)


def _common(configs: Sequence[dict[str, Any]], key: str) -> Any:
    """The value that all adapters share; None if they differ."""
    values = [config.get(key) for config in configs]
    return values[0] if values and all(value == values[0] for value in values) else None
