"""LoRA adapters in PEFT's format (arXiv 2106.09685) as models with exactly known task vectors."""

import re
from collections.abc import Container, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor

from tsv_exp.checkpoints.adapters.attention import added_twice, weight_of
from tsv_exp.checkpoints.adapters.changed_model import ChangedModel
from tsv_exp.checkpoints.adapters.conv1d import conv1d_weights, model_types
from tsv_exp.checkpoints.adapters.lora_config import LoraConfig
from tsv_exp.checkpoints.adapters.tied import check_head
from tsv_exp.checkpoints.loaded_names import match_loaded
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merging.inputs.alignment import matches

_KEY = re.compile(
    r"(base_model\.model\.)?(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.(?!weight$|bias$)\w+)?(\.weight)?"
)
_WHOLE = re.compile(
    r"(?<=\.)(base_layer|modules_to_save(\.(?!weight$|bias$)\w+)?)\."
)  # marks weights saved whole, not as factors


class Adapter(ChangedModel):
    """The weights θ_pre + Δ of an adapter on its base; `delta` returns Δ without rounding to the base's dtype.

    Δ = s · B A, minus what the adapter's initialization subtracted from the base (PiSSA, OLoRA). Weights that the
    adapter stores whole (modules_to_save, embeddings, biases) replace the base's.

    Args:
        path: the adapter's folder.
        tensors: the content of its file.
        base: the weights that it changes.
        keep: patterns of the base's names that stay as they are.
        ignore: patterns of the adapter's names (<module>.weight) that are left out.

    Raises:
        UserError: the adapter is not LoRA on linear layers and embeddings, or belongs to another base.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, Tensor],
        base: Mapping[str, Tensor],
        keep: Sequence[str] = (),
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__(path, base)
        self._config = LoraConfig.load(path)
        modules: dict[str, dict[str, Tensor]] = {}
        embeddings, whole = set(), {}
        for key in tensors:
            if match := _KEY.fullmatch(key):
                add_factor(modules, match, tensors[key], path)
                if match["embedding"]:
                    embeddings.add(match["module"])
            elif ".original_module." in key:  # the base's, which PEFT saves with embeddings that were resized
                continue
            elif ".lora_" in key:
                raise UserError(
                    f"{path}: the tensor {key!r} is not a LoRA factor; merge the adapter into its model first"
                )
            else:
                whole[_WHOLE.sub("", key.removeprefix("base_model.model."))] = tensors[key]
        weights = {module: weight_of(module, modules) for module in modules}
        self.own_names = (*weights.values(), *whole)
        changed = [own for own in self.own_names if not matches(own, ignore)]
        if twice := [own for module, own in weights.items() if added_twice(module) and own in changed]:
            raise UserError(
                f"{path}: PEFT up to version 0.21 adds the factors of {twice[0]!r} twice, and others once, so that "
                "the change is not known; merge the adapter into its model with the version that trained it "
                "(merge_and_unload), save that, and give it; or \"ignore=['*.out_proj.weight']\" leaves them out"
            )
        names = {own: name for name, own in self._names_in_base(changed).items()}
        tied = _twins(whole, names, [] if self._config.tied else weights.values())
        if unknown := [own for own in changed if own not in names and own not in tied]:
            raise UserError(
                f"{path}: the base has no parameter {unknown[0]!r} that the adapter changes; {_cause(unknown, changed)}"
            )
        names = {own: name for own, name in names.items() if not matches(name, keep)}
        self._whole = {names[own]: tensor for own, tensor in whole.items() if own in names}
        self._factors: dict[str, tuple[Tensor, Tensor, float]] = {}
        self._transposed: set[str] = set()
        self._names = {module: names[own] for module, own in weights.items() if own in names}
        for module, name in self._names.items():
            self._factors[name] = self._checked(module, modules[module])
            if module in embeddings or self._stored_transposed(name):
                self._transposed.add(name)
                if self._config.initialization == "olora":  # PEFT does not handle such a weight correctly
                    raise UserError(f"{path}: OLoRA of {name!r}, which is stored transposed, is not defined")
        for name in names.values():
            if (shape := self._shape(name)) != base[name].shape:
                shapes = f"has shape {tuple(shape)}, in the base {tuple(base[name].shape)}"
                raise UserError(f"{path}: {name!r} {shapes}; {_remedy(shape, base[name].shape)}")
        self._initial = cache(self._subtracted)
        if not tied:
            changed = [name for name, tensor in self._whole.items() if not torch.equal(tensor, base[name].to(tensor))]
            check_head(path, base, [*self._factors, *changed])

    def _names_in_base(self, changed: Sequence[str]) -> dict[str, str]:
        names, joined = match_loaded(self._base, changed)
        if joined:
            raise UserError(
                f"{self.path}: transformers makes {joined!r} of several of the base's tensors when it loads the "
                "model; merge the adapter into its model first"
            )
        return names

    def _checked(self, module: str, pair: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, float]:
        if any(part.dim() > 2 for part in pair.values()):
            raise UserError(f"{self.path}: {module!r} is a convolution; merge the adapter into its model first")
        if not usable(pair):
            raise UserError(f"{self.path}: {module!r} needs two matrices, lora_A and lora_B; merge the adapter first")
        self._config.check_rank(module, pair["B"], pair["A"])
        return pair["B"], pair["A"], self._config.scale(module)

    def _stored_transposed(self, name: str) -> bool:
        """Whether the base stores a weight as (in, out), as transformers' Conv1D layers do.

        The shapes decide; for square weights the base's model type does.
        """
        b, a, _ = self._factors[name]
        straight = (b.shape[0], a.shape[1])
        if straight[0] != straight[1]:
            return tuple(self._base[name].shape) == straight[::-1]
        if self._conv1d:
            return name in self._conv1d
        known = self._conv1d is not None and model_types(getattr(self._base, "path", None))
        if known or not self._config.fan_in_fan_out:
            return False
        raise UserError(
            f"{self.path}: the square weight {name!r} may be stored transposed (fan_in_fan_out), "
            "and the base's type is unknown; give the base as a folder with its config.json, or merge the adapter first"
        )

    @cached_property
    def _conv1d(self) -> set[str] | None:
        return conv1d_weights(self._base)

    def _shape(self, name: str) -> torch.Size:
        if name not in self._factors:
            return self._whole[name].shape
        b, a, _ = self._factors[name]
        return torch.Size((a.shape[1], b.shape[0]) if name in self._transposed else (b.shape[0], a.shape[1]))

    def subtracted(self, module: str) -> LowRank | None:
        """The product that the initialization subtracted from a module's weight (out, in); named as in the adapter."""
        return self._initial(self._names[module])

    def _subtracted(self, name: str) -> LowRank | None:
        _, a, scale = self._factors[name]
        weight = self._base[name]
        return self._config.initial(weight.mT if name in self._transposed else weight, scale, a.shape[0])

    def delta(self, name: str, dtype: torch.dtype) -> Tensor | None:
        """The change in `dtype`, or None if the adapter does not change the weight."""
        product = self._product(name, dtype)
        if name not in self._whole:
            return product
        change = self._whole[name].to(dtype) - self._base[name].to(dtype)
        return change if product is None else change + product

    def _product(self, name: str, dtype: torch.dtype) -> Tensor | None:
        if name not in self._factors:
            return None
        b, a, scale = self._factors[name]
        product = b.to(dtype) @ (a.to(dtype) * scale)
        if (taken := self._initial(name)) is not None:
            product -= LowRank(*(part.to(dtype) for part in taken)).dense()
        return product.mT if name in self._transposed else product

    def factors(self, name: str, dtype: torch.dtype) -> LowRank:
        """The delta as factors u (m, r), s (r,), vh (r, n), not orthonormal; r = 0 if there is no change."""
        if name in self._whole:  # full rank: the matrix times the identity
            m, n = self._base[name].shape
            change = self.delta(name, dtype)
            assert change is not None
            one, ones = torch.eye(min(m, n), dtype=dtype), torch.ones(min(m, n), dtype=dtype)
            return LowRank(change, ones, one) if m >= n else LowRank(one, ones, change)
        if name not in self._factors:
            return self._no_change(name, dtype)
        b, a, scale = self._factors[name]
        found = LowRank(b.to(dtype), torch.full((b.shape[1],), scale, dtype=dtype), a.to(dtype))
        if (taken := self._initial(name)) is not None:
            u, s, vh = (part.to(dtype) for part in taken)
            found = LowRank(torch.cat([found.u, u], 1), torch.cat([found.s, -s]), torch.cat([found.vh, vh]))
        return LowRank(found.vh.mT, found.s, found.u.mT) if name in self._transposed else found

    def __getitem__(self, name: str) -> Tensor:
        weight = self._base[name]
        delta = self.delta(name, torch.promote_types(weight.dtype, torch.float32))
        return weight if delta is None else weight.to(delta.dtype) + delta


def add_factor(modules: dict[str, dict[str, Tensor]], key: re.Match[str], factor: Tensor, path: Path) -> None:
    """Add a factor, by the parts `module` and `side` of its key.

    Raises:
        UserError: there is one with another adapter's name.
    """
    pair = modules.setdefault(key["module"], {})
    if key["side"] in pair:
        raise UserError(f"{path} holds several adapters of {key['module']!r}; save each one alone, with PEFT")
    pair[key["side"]] = factor


def usable(pair: Mapping[str, Tensor]) -> bool:
    """Whether the factors of a module are two matrices A and B of floating-point numbers."""
    matrices = all(factor.dim() == 2 and factor.is_floating_point() and factor.numel() for factor in pair.values())
    return set(pair) == {"A", "B"} and matrices


def _twins(whole: Mapping[str, Tensor], names: Container[str], factored: Container[str]) -> set[str]:
    """Matrices that the base lacks and that equal one that it has: heads that are tied to their embedding.

    Not those that also have factors (`factored`), which may change them.
    """
    found = {own: tensor for own, tensor in whole.items() if tensor.dim() == 2 and own not in factored}
    known = [tensor for own, tensor in whole.items() if own in names]
    return {own for own in found if own not in names and any(torch.equal(found[own], tensor) for tensor in known)}


def _remedy(shape: torch.Size, wanted: torch.Size) -> str:
    if shape[1:] != wanted[1:]:
        return "wrong base"
    return (
        "where it is a vocabulary, resize the base's first (resize_token_embeddings, save_pretrained), or merge the "
        "adapter into its model"
    )


def _cause(unknown: Sequence[str], changed: Sequence[str]) -> str:
    if len(unknown) == len(changed):
        return "wrong base"
    if re.search(r"\.\d+\.", unknown[0]):
        return "its base has other layers; give the base that it was trained on"
    return (
        "if the base ties it to its embedding, give an untied base (docs/checkpoints.md); if it has no such head, "
        f"merge the adapter into its model first; \"ignore=['{unknown[0]}']\" leaves it out"
    )
