"""Pre-training of the small CLIP from scratch: `python -m tsv_exp.models.tiny.pretrain [FILE]` writes its weights."""

import argparse
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit

from tsv_exp.models.tiny.captions import Wording, pool
from tsv_exp.models.tiny.network import BASE, Sizes, new_clip, normalize, tokenize
from tsv_exp.runtime.console import console, track
from tsv_exp.runtime.devices import mixed, resolve
from tsv_exp.storage.files import atomic
from tsv_exp.storage.tensor_files import save


@dataclass(frozen=True)
class Recipe:
    """AdamW, linear warm-up, cosine decay; the loss is CLIP's, with equal captions as positives of each other."""

    images: int = 60_000
    steps: int = 1100
    batch_size: int = 256
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 60
    seed: int = 0
    precision: str = "auto"
    wording: Wording = field(default_factory=Wording)
    sizes: Sizes = field(default_factory=Sizes)


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE over B pairs (CLIP, arXiv 2103.00020, figure 3) with several positives.

    Args:
        image: unit features (B, d).
        text: unit features (B, d).
        scale: exp(logit_scale).
        same: caption indices (B,): pairs with equal captions are positives of each other.
    """
    target = (same[:, None] == same[None]).float()
    target = target / target.sum(1, keepdim=True)
    logits = scale * image @ text.T
    by_image, by_text = logits.log_softmax(1), logits.T.log_softmax(1)
    return -(target * (by_image + by_text)).sum(1).mean() / 2


def pretrain(recipe: Recipe) -> Any:
    """Train a small CLIP from scratch on newly drawn captioned images."""
    torch.manual_seed(recipe.seed)
    device = torch.device("cpu")
    dtype = resolve(recipe.precision, device)
    images, captions = pool(recipe.images, recipe.wording, recipe.seed)
    tokens = tokenize(captions)
    clip = new_clip(recipe.sizes).train()
    optimizer = torch.optim.AdamW(
        clip.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True
    )
    order = torch.empty(0, dtype=torch.int64)
    for step in track(range(recipe.steps), "pre-training"):
        if len(order) < recipe.batch_size:
            order = torch.randperm(len(images))
        index, order = order[: recipe.batch_size], order[recipe.batch_size :]
        distinct, same = torch.unique(tokens[index], dim=0, return_inverse=True)
        with mixed(dtype, device):
            image, text = clip.encode_image(normalize(images[index])), clip.encode_text(distinct)
        text = unit(text.float(), dim=-1)[same]
        contrastive_loss(unit(image.float(), dim=-1), text, clip.logit_scale.exp(), same).backward()
        for group in optimizer.param_groups:
            decay = 0.5 * (1 + math.cos(math.pi * step / recipe.steps)) + 0.01
            group["lr"] = recipe.lr * min(1.0, (step + 1) / recipe.warmup) * decay
        optimizer.step()
        optimizer.zero_grad()
        clip.logit_scale.data.clamp_(0, math.log(100))
    return clip.eval()


def main() -> None:
    """Pre-train with the default recipe, changed by options, and write the weights as float16."""
    parser = argparse.ArgumentParser(
        description="Pre-train the small CLIP of the embedded benchmark from scratch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("file", nargs="?", type=Path, default=BASE, help="where the weights go")
    for name in ("images", "steps", "lr", "seed"):
        default = getattr(Recipe, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{name} of the pre-training")
    for size in fields(Sizes):
        option = f"--{size.name.replace('_', '-')}"
        parser.add_argument(option, type=type(size.default), default=size.default, help="size of the network")
    arguments = vars(parser.parse_args())
    torch.set_flush_denormal(True)
    file, sizes = arguments.pop("file"), Sizes(**{size.name: arguments.pop(size.name) for size in fields(Sizes)})
    clip = pretrain(Recipe(**arguments, sizes=sizes))
    weights = {name: value.half() for name, value in clip.state_dict().items()}
    with atomic(file) as temporary:
        save(temporary, weights)
    console.print(f"wrote {file}")


if __name__ == "__main__":
    main()
