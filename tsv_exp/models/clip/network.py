"""open_clip's networks: the image encoder of the checkpoints, and the text tower for heads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tsv_exp.errors import UserError
from tsv_exp.models.clip.names import check_finite

Architecture = str | Mapping[str, Any]


def settings(architecture: Architecture) -> dict[str, Any]:
    """The settings (embed_dim, vision_cfg, text_cfg, ...) of an open_clip architecture, or a mapping of them.

    Raises:
        UserError: open_clip has no such name.
    """
    if not isinstance(architecture, str):
        return deepcopy(dict(architecture))
    import open_clip  # slow import: only if a network is built

    found: dict[str, Any] | None = open_clip.get_model_config(architecture)
    if found is None:
        raise UserError(f"model.architecture={architecture}: open_clip does not have it; see open_clip.list_models()")
    return found


def image_size(architecture: Architecture) -> int:
    """The side length of the input in pixels.

    Raises:
        UserError: it is not square.
    """
    size = settings(architecture)["vision_cfg"]["image_size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise UserError(f"model.architecture={architecture}: its input is not square ({size}); choose another")
    return int(sides.pop())


class ImageEncoder(nn.Module):
    """The image encoder of a CLIP, with those parts of its text encoder that checkpoints contain (frozen, unused)."""

    visual: nn.Module

    def __init__(self, clip: nn.Module, kept: Iterable[str]):
        super().__init__()
        outermost = {name.split(".")[0] for name in kept}
        for name, child in clip.named_children():
            if name in outermost:
                self.add_module(name, child)
        for name, parameter in clip.named_parameters(recurse=False):
            if name in outermost:
                self.register_parameter(name, parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Float images (B, 3, H, W) to features (B, d)."""
        features = self.visual(images)
        pooled: Tensor = features if isinstance(features, Tensor) else features[0]  # CoCa also returns tokens
        return pooled


def image_encoder(architecture: Architecture, weights: Mapping[str, Tensor], where: str) -> ImageEncoder:
    """An encoder with a copy of these weights (open_clip's names).

    Raises:
        UserError: the architecture does not match; `where` names the origin of the weights.
    """
    own = settings(architecture)
    # Networks of other libraries have buffers that are not in checkpoints.
    light = torch.device("meta") if not _custom(own) and "timm_model_name" not in own["vision_cfg"] else nullcontext()
    with light:
        encoder = ImageEncoder(_clip(architecture), weights)
    _load(encoder, {name: weight.clone() for name, weight in weights.items()}, where)
    return encoder.eval().requires_grad_(False)


def text_encoder(
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    tokenize: Callable[[list[str]], Tensor],
    where: str,
    device: torch.device,
) -> Callable[[Sequence[str]], Tensor]:
    """Prompts to features (P, d) by the text tower.

    Raises:
        UserError: the architecture does not match; `where` names the origin of the weights.
    """
    clip = _clip(architecture)
    clip.visual = nn.Identity()
    text = {name: weight.float() for name, weight in weights.items() if not name.startswith("visual.")}
    check_finite(text, where)
    _load(clip, text, where)
    clip.to(device).eval().requires_grad_(False)
    return lambda prompts: text_features(clip, tokenize(list(prompts)).to(device))


class _TextSide(nn.Module):
    """A module whose forward is encode_text, for functional_call."""

    def __init__(self, clip: Any):
        super().__init__()
        self.clip = clip
        self.forward = clip.encode_text


def text_features(clip: Any, tokens: Tensor) -> Any:
    """encode_text of tokens (P, L) without the padding after the last end-of-text token: most of a prompt's 77.

    The result is the same: attention is causal, and features are read at the end-of-text token.
    """
    side = _TextSide(clip)
    if getattr(clip, "attn_mask", None) is None or clip.text_pool_type != "argmax":
        return side(tokens)  # a text tower of another kind
    length = int(tokens.argmax(1).max()) + 1  # the end-of-text token has the highest index
    shorter = {
        "clip.positional_embedding": clip.positional_embedding[:length],
        "clip.attn_mask": clip.attn_mask[:length, :length],
    }
    return functional_call(side, shorter, (tokens[:, :length],))


def _custom(own: Mapping[str, Any]) -> bool:
    """Whether the text encoder is a separate module: SigLIP, EVA, text towers of transformers."""
    return bool(own.get("custom_text")) or "hf_model_name" in own["text_cfg"]


def _clip(architecture: Architecture) -> Any:
    """The network with random weights, of open_clip's class for the architecture."""
    import open_clip

    own = settings(architecture)
    if _custom(own):
        own.pop("custom_text", None)
        own["text_cfg"]["hf_model_pretrained"] = False
        return (open_clip.CoCa if "multimodal_cfg" in own else open_clip.CustomTextCLIP)(**own)
    clip = open_clip.CLIP(**own)
    for transformer in (getattr(clip.visual, "transformer", None), clip.transformer):
        if transformer is None:  # a convolutional network, or one of timm
            continue
        # Sequence-first layout, as CLIP was trained. Batch-first layout makes torch transpose before every attention,
        # and bfloat16 products of transposed matrices are many times slower on a CPU.
        transformer.batch_first = False
        for block in transformer.resblocks:
            block.attn.batch_first = False
    return clip


def _load(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    try:
        module.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{where}: not of the architecture that model.architecture names: {reason[:200]}") from error


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalize uint8 images (B, 3, H, W) to zero mean and unit variance per channel, float32."""
    centre, spread = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    return (images.float() / 255 - centre) / spread
