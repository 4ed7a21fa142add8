"""open_clip's networks: the image encoder as checkpoints hold it, and the text tower for heads."""

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
    """embed_dim, vision_cfg, text_cfg and so on, of a name that open_clip knows, or of a mapping that has them.

    Raises:
        UserError: open_clip has no such name.
    """
    if not isinstance(architecture, str):
        return deepcopy(dict(architecture))
    import open_clip  # takes seconds: only where a network is built

    found: dict[str, Any] | None = open_clip.get_model_config(architecture)
    if found is None:
        raise UserError(
            f"model.architecture={architecture}: open_clip has none of that name; see open_clip.list_models()"
        )
    return found


def image_size(architecture: Architecture) -> int:
    """Pixels of a side of the input.

    Raises:
        UserError: it is not square.
    """
    size = settings(architecture)["vision_cfg"]["image_size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise UserError(f"model.architecture={architecture}: its input is not square ({size}); choose another")
    return int(sides.pop())


class ImageEncoder(nn.Module):
    """The image side of a CLIP, and of its text side only what checkpoints of the encoder hold (frozen and unused)."""

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
        pooled: Tensor = features if isinstance(features, Tensor) else features[0]  # CoCa gives tokens too
        return pooled


def image_encoder(architecture: Architecture, weights: Mapping[str, Tensor], where: str) -> ImageEncoder:
    """An encoder with a copy of these weights (open_clip's names).

    Raises:
        UserError: they are of another architecture; `where` names their origin.
    """
    own = settings(architecture)
    # Networks of other libraries have buffers that no checkpoint holds.
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
        UserError: the weights are of another architecture; `where` names their origin.
    """
    clip = _clip(architecture)
    clip.visual = nn.Identity()
    text = {name: weight.float() for name, weight in weights.items() if not name.startswith("visual.")}
    check_finite(text, where)
    _load(clip, text, where)
    clip.to(device).eval().requires_grad_(False)
    return lambda prompts: text_features(clip, tokenize(list(prompts)).to(device))


class _TextSide(nn.Module):
    """A module, as functional_call wants one, whose call is encode_text."""

    def __init__(self, clip: Any):
        super().__init__()
        self.clip = clip
        self.forward = clip.encode_text


def text_features(clip: Any, tokens: Tensor) -> Any:
    """encode_text of tokens (P, L) without what comes behind the last end-of-text token: most of a prompt's 77.

    The result is the same, since no token sees those behind it and features are read at the end of the text.
    """
    side = _TextSide(clip)
    if getattr(clip, "attn_mask", None) is None or clip.text_pool_type != "argmax":
        return side(tokens)  # another kind of text tower
    length = int(tokens.argmax(1).max()) + 1  # the end of text has the highest number
    shorter = {
        "clip.positional_embedding": clip.positional_embedding[:length],
        "clip.attn_mask": clip.attn_mask[:length, :length],
    }
    return functional_call(side, shorter, (tokens[:, :length],))


def _custom(own: Mapping[str, Any]) -> bool:
    """Whether the text side is a module of its own: SigLIP, EVA, text towers of transformers."""
    return bool(own.get("custom_text")) or "hf_model_name" in own["text_cfg"]


def _clip(architecture: Architecture) -> Any:
    """The network with random weights, of the class that open_clip takes for it."""
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
        # Tokens before images, as CLIP was trained: else torch transposes in front of every attention, and on a
        # processor bfloat16 products of transposed matrices take many times longer.
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
    """uint8 images (B, 3, H, W) to zero mean and unit spread by channel, float32."""
    centre, spread = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    return (images.float() / 255 - centre) / spread
