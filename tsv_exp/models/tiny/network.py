"""The small CLIP, its word-level tokenizer, and its packaged weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tsv_exp.errors import UserError
from tsv_exp.merging.inputs.alignment import matches
from tsv_exp.models.tiny.catalogue import PRETRAINING_ONLY, TASKS, TEMPLATES
from tsv_exp.models.tiny.drawing.render import IMAGE, PALETTE

BASE = Path(__file__).parent / "base.safetensors"
CONTEXT = 12  # tokens of a text, including start and end
ALIASES = 20  # number of alias words of each kind
VISION = {"head_width": 32, "patch_size": 7, "image_size": IMAGE}
TEXT = {"width": 64, "heads": 2, "layers": 2, "context_length": CONTEXT}
SCALED_BLOCK = "visual.transformer.resblocks.{}.{}.gamma"  # a factor per channel of what a block adds (LayerScale)
DIVIDED = ("visual.*.in_proj_weight", "visual.*.out_proj.*", "visual.*.c_fc.weight", "visual.*.c_proj.*", "visual.proj")
MULTIPLIED = ("visual.*.ln_1.*", "visual.*.ln_2.*", "visual.ln_post.*")


@dataclass(frozen=True)
class Sizes:
    """Sizes of the image encoder, and of the embedding that it shares with the text tower."""

    width: int = 256
    layers: int = 2
    mlp_ratio: float = 4.0  # hidden units of an MLP, relative to the width
    embedding: int = 64


@cache
def vocabulary() -> dict[str, int]:
    """Every word of prompts and captions, numbered from 2; 0 is padding, 1 start, the highest end of text."""
    texts = [*TEMPLATES, *PALETTE]
    for subject in (*TASKS.values(), *PRETRAINING_ONLY.values()):
        texts += [subject.wording, *subject.classes]
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    words |= {f"{kind}{i}" for kind in "vw" for i in range(ALIASES)}
    return {word: i for i, word in enumerate(sorted(words), start=2)}


def tokenize(texts: Sequence[str]) -> Tensor:
    """Token indices (N, CONTEXT), int64; raises KeyError for a word outside the vocabulary."""
    words, end = vocabulary(), len(vocabulary()) + 2
    tokens = torch.zeros(len(texts), CONTEXT, dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        numbers = [1, *(words[word] for word in text.split()), end]
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens


def new_clip(sizes: Sizes = Sizes(), layer_scale: float | None = None) -> Any:
    """An open_clip.CLIP of these sizes with random weights from torch's global generator.

    With `layer_scale`, blocks of the image encoder multiply by it what they add (LayerScale, arXiv 2103.17239).
    """
    import open_clip  # slow import: only if a network is built

    own = {"width": sizes.width, "layers": sizes.layers, "mlp_ratio": sizes.mlp_ratio, "ls_init_value": layer_scale}
    text = TEXT | {"vocab_size": len(vocabulary()) + 3}
    return open_clip.CLIP(embed_dim=sizes.embedding, vision_cfg=VISION | own, text_cfg=text, quick_gelu=True)


def sizes_of(weights: Mapping[str, Tensor]) -> Sizes:
    """The sizes of a CLIP with these weights; raises KeyError if they are of another architecture."""
    width, embedding = weights["visual.proj"].shape
    hidden = len(weights["visual.transformer.resblocks.0.mlp.c_fc.weight"])
    layers = sum(name.startswith("visual.") and name.endswith(".mlp.c_fc.weight") for name in weights)
    return Sizes(width, layers, hidden / width, embedding)


def with_gain(weights: Mapping[str, Tensor], gain: float) -> dict[str, Tensor]:
    """The weights of a CLIP with the same outputs whose image encoder has matrices smaller by a factor `gain`.

    The layer norm before, or the block's scale after each matrix makes up for it. So the same change of the outputs is
    a change of the matrices smaller by `gain`; WUDI and ACE depend on this size, most methods do not.

    Args:
        weights: without scales of the blocks.
        gain: positive; a power of 2 changes no digit.
    """
    scaled = dict(weights)
    for name, weight in weights.items():
        if matches(name, DIVIDED):
            scaled[name] = weight / gain
        elif matches(name, MULTIPLIED):
            scaled[name] = weight * gain
    sizes = sizes_of(weights)
    for block in range(sizes.layers):
        scaled |= {SCALED_BLOCK.format(block, name): torch.full((sizes.width,), gain) for name in ("ls_1", "ls_2")}
    return scaled


@cache
def base_weights(file: Path = BASE, gain: float = 1.0) -> Mapping[str, Tensor]:
    """The pre-trained weights of the whole CLIP, float32, with matrices divided by `gain`."""
    weights = {name: value.float() for name, value in load_file(file).items()}
    return weights if gain == 1 else with_gain(weights, gain)


def pretrained_clip(file: Path = BASE, gain: float = 1.0) -> Any:
    """A small CLIP of the sizes in the file with its pre-trained weights, frozen for inference.

    Raises:
        UserError: the file is missing, damaged or of another architecture.
    """
    try:
        weights = base_weights(file, gain)
        clip = new_clip(sizes_of(weights), 1.0 if SCALED_BLOCK.format(0, "ls_1") in weights else None)
        clip.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise UserError(
            f"model.base={file}: not the weights of a small CLIP ({str(error).splitlines()[0]}); "
            "write them with python -m tsv_exp.models.tiny.pretrain FILE"
        ) from error
    return clip.eval().requires_grad_(False)


def normalize(images: Tensor) -> Tensor:
    """Normalize uint8 images to about zero mean and unit variance, float32."""
    return (images.float() - 127.5) / 64
