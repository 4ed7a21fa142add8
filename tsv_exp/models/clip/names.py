"""CLIP checkpoints of other libraries under open_clip's names: tensors are joined lazily."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tsv_exp.checkpoints.readers import Reader
from tsv_exp.errors import UserError
from tsv_exp.storage.digests import digest

# open_clip's name -> transformers' name, within a tower
BLOCK = {
    "ln_1.{p}": "layer_norm1.{p}",
    "ln_2.{p}": "layer_norm2.{p}",
    "attn.out_proj.{p}": "self_attn.out_proj.{p}",
    "mlp.c_fc.{p}": "mlp.fc1.{p}",
    "mlp.c_proj.{p}": "mlp.fc2.{p}",
}
VISION = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",  # sic
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
TEXT = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


REMEDY = "choose the model= that it belongs to, or give another checkpoint"
OTHER = f"it is of another architecture: {REMEDY}"


class Part(NamedTuple):
    """How to build one tensor: the named tensors concatenated along axis 0, then optionally transposed."""

    sources: Sequence[str]
    transposed: bool = False


class Renamed(Mapping[str, Tensor]):
    """A checkpoint under other names; missing tensors are taken from `rest`."""

    def __init__(self, source: Reader, parts: Mapping[str, Part], rest: Mapping[str, Tensor]):
        self.source = source
        self.parts = parts
        self.rest = rest

    def __getitem__(self, name: str) -> Tensor:
        if name in self.rest:
            return self.rest[name]
        part = self.parts[name]
        tensors = [self.source[source] for source in part.sources]
        tensor = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return tensor.T if part.transposed else tensor

    def __iter__(self) -> Iterator[str]:
        yield from self.parts
        yield from self.rest

    def __len__(self) -> int:
        return len(self.parts) + len(self.rest)

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor, for error messages."""
        return self.source.file_of(self.parts[name].sources[0] if name in self.parts else name)

    @cached_property
    def digest(self) -> str:
        """Digest of the file, and of the tensors taken from `rest`."""
        return digest(self.source.digest, sorted(self.parts), self.rest)


def clip_weights(source: Reader, where: str, base: Mapping[str, Tensor] | None = None) -> Renamed:
    """Weights of a CLIP or of its image encoder under open_clip's names (`visual.conv1.weight`, …).

    Understands transformers' CLIPModel and CLIPVisionModel (with or without the prefix `vision_model.`), open_clip's
    own names, also behind `model.`, and the image encoder alone (`conv1.weight`, …).

    Args:
        source: the checkpoint.
        where: the file or repository, for error messages.
        base: the result has exactly its names; frozen parts that the checkpoint lacks (the projections and the whole
            text encoder) are taken from it. None returns everything in the checkpoint.

    Raises:
        UserError: it is not a CLIP, or its architecture differs from the base's.
    """
    parts = _parts(source, where)
    if base is None:
        return Renamed(source, parts, {})
    rest = {name: base[name] for name in base if name not in parts and _frozen(name)}
    missing = next((name for name in base if name not in parts and name not in rest), None)
    unknown = next((name for name in parts if name.startswith("visual.") and name not in base), None)
    if missing or unknown:
        what = f"lacks {missing}" if missing else f"has an unexpected {unknown}"
        raise UserError(f"{where}: {what}; {OTHER}")
    kept = {name: part for name, part in parts.items() if name in base}
    for name, part in kept.items():
        shape = _shape([source[source_name].shape for source_name in part.sources], part.transposed)
        if shape != tuple(base[name].shape):
            raise UserError(f"{where}: {name} has shape {shape} and the base's is {tuple(base[name].shape)}; {OTHER}")
    return Renamed(source, kept, rest)


def check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Raise a UserError that names the first tensor with a NaN or infinite value."""
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise UserError(f"{where}: {name} holds NaN or infinite values; it is damaged, give another copy")


def _frozen(name: str) -> bool:
    return name == "visual.proj" or not name.startswith("visual.")


def _shape(shapes: Sequence[torch.Size], transposed: bool) -> tuple[int, ...]:
    joined = (sum(shape[0] for shape in shapes), *shapes[0][1:]) if len(shapes) > 1 else tuple(shapes[0])
    return joined[::-1] if transposed else joined


def _parts(source: Reader, where: str) -> dict[str, Part]:
    names = [name for name in source if not name.endswith(("position_ids", "attn_mask"))]
    if any(name.endswith("embeddings.patch_embedding.weight") for name in names):
        return _from_transformers(set(names), where)
    plain = {name.removeprefix("model."): name for name in names}
    if "conv1.weight" in plain:
        plain = {f"visual.{short}": name for short, name in plain.items()}
    if not any(name.startswith("visual.") for name in plain):
        raise UserError(
            f"{where}: expected the image encoder of a CLIP, with the names of transformers or open_clip; it begins "
            f"with {', '.join(names[:3]) or 'nothing'}: give another checkpoint"
        )
    return {short: Part([name]) for short, name in plain.items()}


def _from_transformers(names: set[str], where: str) -> dict[str, Part]:
    prefix = "vision_model." if "vision_model.embeddings.patch_embedding.weight" in names else ""
    parts = _tower(names, where, prefix, "visual.", VISION)
    if "visual_projection.weight" in names:
        parts["visual.proj"] = Part(["visual_projection.weight"], transposed=True)
    if "text_model.embeddings.token_embedding.weight" in names:
        parts |= _tower(names, where, "text_model.", "", TEXT)
        parts["text_projection"] = Part(["text_projection.weight"], transposed=True)
        parts["logit_scale"] = Part(["logit_scale"])
    return parts


def _tower(names: set[str], where: str, prefix: str, target: str, outer: Mapping[str, str]) -> dict[str, Part]:
    parts = {target + name: Part([prefix + theirs]) for name, theirs in outer.items()}
    pattern = re.compile(re.escape(prefix) + r"encoder\.layers\.(\d+)\.")
    blocks = {int(found[1]) for name in names if (found := pattern.match(name))}
    for number in sorted(blocks):
        ours, theirs = f"{target}transformer.resblocks.{number}", f"{prefix}encoder.layers.{number}"
        for kind in ("weight", "bias"):
            joined = [f"{theirs}.self_attn.{letter}_proj.{kind}" for letter in "qkv"]
            parts[f"{ours}.attn.in_proj_{kind}"] = Part(joined)
            for name, other in BLOCK.items():
                parts[f"{ours}.{name.format(p=kind)}"] = Part([f"{theirs}.{other.format(p=kind)}"])
    for name, part in parts.items():
        for source in part.sources:
            if source not in names:
                raise UserError(
                    f"{where}: lacks {source} (for {name}); it is damaged, or of another architecture: {REMEDY}"
                )
    return parts
