"""LoRA adapters in PEFT's format (arXiv 2106.09685) as models with exactly known task vectors."""

import re
from collections.abc import Container, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Self, TypeAlias

import torch
from torch import Tensor

from tsv_exp.checkpoints.adapters.attention import added_twice, weight_of
from tsv_exp.checkpoints.adapters.changed_model import ChangedModel
from tsv_exp.checkpoints.adapters.conv1d import conv1d_weights, model_types
from tsv_exp.checkpoints.adapters.lora_config import LoraConfig
from tsv_exp.checkpoints.adapters.parameters import Layout, holder, of_matrices, parameters_of, straight
from tsv_exp.checkpoints.adapters.stored import read_stored, usable
from tsv_exp.checkpoints.adapters.tied import check_head
from tsv_exp.checkpoints.loaded_names import match_loaded, stacked_parts
from tsv_exp.errors import UserError
from tsv_exp.layers import LowRank
from tsv_exp.merging.inputs.alignment import matches
from tsv_exp.storage.digests import digest

Factors: TypeAlias = tuple[Tensor, Tensor, float]  # B, A and the scale s of the change s · B A


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
        modules, embeddings, whole = read_stored(path, tensors)
        targets = self._config.parameters
        parameters = parameters_of(path, modules, targets, self._layout) if targets else {}
        weights = {module: parameters.get(module) or weight_of(module, modules) for module in modules}
        self.own_names = (*weights.values(), *whole)
        changed = [own for own in self.own_names if not matches(own, ignore)]
        if twice := [own for module, own in weights.items() if added_twice(module) and own in changed]:
            raise UserError(
                f"{path}: PEFT up to version 0.21 adds the factors of {twice[0]!r} twice, and others once, so that "
                "the change is not known; merge the adapter into its model with the version that trained it "
                "(merge_and_unload), save that, and give it; or \"ignore=['*.out_proj.weight']\" leaves them out"
            )
        names, stacked = self._names_in_base(changed, set(parameters.values()))
        tied = _twins(whole, names, [] if self._config.tied else weights.values())
        known = names.keys() | stacked | tied
        if unknown := [own for own in changed if own not in known]:
            raise UserError(
                f"{path}: the base has no parameter {unknown[0]!r} that the adapter changes; {_cause(unknown, changed)}"
            )
        names = {own: name for own, name in names.items() if not matches(name, keep)}
        self._whole = {names[own]: tensor for own, tensor in whole.items() if own in names}
        self._factors: dict[str, Factors] = {}
        self._transposed: set[str] = set()
        self._names = {module: names[own] for module, own in weights.items() if own in names}
        for module, name in self._names.items():
            if own := parameters.get(module):
                self._factors[name] = self._of_parameter(own, modules[module], base[name].shape)
                continue
            self._factors[name] = self._checked(module, modules[module])
            if module in embeddings or self._stored_transposed(name):
                self._transposed.add(name)
                if self._config.initialization == "olora":  # PEFT does not handle such a weight correctly
                    raise UserError(f"{path}: OLoRA of {name!r}, which is stored transposed, is not defined")
        for name in names.values():
            self._check_shape(name, self._shape(name), base[name].shape)
        for module, own in parameters.items():
            if own in stacked:
                self._add_parts(own, modules[module], stacked[own], keep)
        self._initial = cache(self._subtracted)
        if not tied:
            changed = [name for name, tensor in self._whole.items() if not torch.equal(tensor, base[name].to(tensor))]
            check_head(path, base, [*self._factors, *changed])

    @cached_property
    def _layout(self) -> Layout:
        return Layout.of(self._base)

    def _names_in_base(
        self, changed: Sequence[str], parameters: Container[str]
    ) -> tuple[dict[str, str], dict[str, list[tuple[str, ...]]]]:
        """The base's names of what the adapter changes, and of the parts of parameters that it has only in parts."""
        names, joined = match_loaded(self._base, changed)
        parts = stacked_parts(self._base) if joined else {}
        stacked = {own: parts[new] for own, new in joined.items() if new in parts and own in parameters}
        if other := [own for own in joined if own not in stacked]:
            raise UserError(
                f"{self.path}: transformers makes {other[0]!r} of several of the base's tensors when it loads the "
                "model; merge the adapter into its model first"
            )
        return {own: name for name, own in names.items()}, stacked

    def _of_parameter(self, own: str, pair: Mapping[str, Tensor], shape: torch.Size) -> Factors:
        """B, A and the scale of a parameter; those of E matrices (E, m, n) are (E, m, r) and (E, r, n)."""
        if len(shape) != 3:
            return self._checked(own, pair)
        if self._config.initialization != "none":
            raise UserError(f"{self.path}: {self._config.initialization} of {own!r}, which is 3-D, is not defined")
        b, a, scale = self._checked(own, pair, shape[0])
        as_stored = straight(len(b), shape, self._config.version, self._layout.transposed.get(holder(own)))
        if as_stored is None:
            raise UserError(
                f"{self.path}: whether the factors of the square matrices in {own!r} are transposed is not known, "
                "because versions of PEFT differ in it; merge the adapter into its model with the version that trained "
                "it (merge_and_unload), save that, and give it"
            )
        return *of_matrices(b, a, shape[0], as_stored), scale

    def _add_parts(
        self, own: str, pair: Mapping[str, Tensor], parts: Sequence[Sequence[str]], keep: Sequence[str]
    ) -> None:
        """Add the factors of the base's tensors that are joined by rows to the matrices of a parameter (E, m, n)."""
        sizes = [len(self._base[name]) for name in parts[0]]
        shape = torch.Size((len(parts), sum(sizes), self._base[parts[0][0]].shape[-1]))
        b, a, scale = self._of_parameter(own, pair, shape)
        self._check_shape(own, _product_shape(b, a), shape)
        for names, rows, right in zip(parts, b, a, strict=True):
            for name, left in zip(names, rows.split(sizes), strict=True):
                self._check_shape(name, _product_shape(left, right), self._base[name].shape)
                if not matches(name, keep):
                    self._factors[name] = left, right, scale

    def _check_shape(self, name: str, shape: torch.Size, wanted: torch.Size) -> None:
        if shape != wanted:
            shapes = f"has shape {tuple(shape)}, in the base {tuple(wanted)}"
            raise UserError(f"{self.path}: {name!r} {shapes}; {_remedy(shape, wanted)}")

    def _checked(self, module: str, pair: Mapping[str, Tensor], count: int = 1) -> Factors:
        if any(part.dim() > 2 for part in pair.values()):
            raise UserError(f"{self.path}: {module!r} is a convolution; merge the adapter into its model first")
        if not usable(pair):
            raise UserError(f"{self.path}: {module!r} needs two matrices, lora_A and lora_B; merge the adapter first")
        self._config.check_rank(module, pair["B"], pair["A"], count)
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
        return _product_shape(a.mT, b.mT) if name in self._transposed else _product_shape(b, a)

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

    def sliced(self, name: str, index: int) -> Self:
        """The matrix at an index of one 3-D parameter."""
        one = super().sliced(name, index)
        one._whole = {name: self._whole[name][index]} if name in self._whole else {}
        one._factors = {}
        if name in self._factors:
            b, a, scale = self._factors[name]
            one._factors[name] = b[index], a[index], scale
        return one

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
        return found.transposed if name in self._transposed else found

    def inputs_first(self, name: str) -> bool | None:
        """Whether a weight is stored as (in, out), so that its factors are Aᵀ Bᵀ, not B A; None if it is not changed.

        Raises:
            UserError: its factors are not B and A of one layer: an identity, parts of the base, or of the experts of a
                layer, where B is on the inputs' side in some versions of PEFT.
        """
        if name in self._whole:
            raise self._no_b(name, "it is saved whole")
        if name not in self._factors:
            return None
        if self._config.initialization != "none":
            raise self._no_b(name, "the adapter's initialization changed the base")
        if self._config.parameters:
            raise self._no_b(name, "the adapter has target_parameters")
        return name in self._transposed

    @cached_property
    def digest(self) -> str:
        """Of the changed weights and the factors: a method may depend on both."""
        return digest(self, self._factors)

    def __getitem__(self, name: str) -> Tensor:
        weight = self._base[name]
        delta = self.delta(name, torch.promote_types(weight.dtype, torch.float32))
        return weight if delta is None else weight.to(delta.dtype) + delta


def _product_shape(b: Tensor, a: Tensor) -> torch.Size:
    return torch.Size((*b.shape[:-1], a.shape[-1]))


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
