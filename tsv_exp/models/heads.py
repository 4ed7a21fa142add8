"""Frozen heads: class prompts through a text tower (CLIP, arXiv 2103.00020, section 3.1.4)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tsv_exp.tasks.task import Task


@torch.no_grad()
def zero_shot_head(task: Task, encode_text: Callable[[Sequence[str]], Tensor], scale: float) -> Tensor:
    """Class weights (C, d): each class's prompts embedded, normalized, averaged, normalized again, times `scale`.

    Args:
        task: classes and prompt templates, in which {} is replaced by the class name.
        encode_text: embeds P prompts to (P, d).
        scale: exp(logit_scale) of the model.
    """
    rows = []
    for name in task.classes:
        prompts = normalize(encode_text([template.format(name) for template in task.templates]).float(), dim=-1)
        rows.append(normalize(prompts.mean(0), dim=-1))
    return torch.stack(rows) * scale


def frozen_head_logits(features: Tensor, head: Tensor) -> Tensor:
    """Logits (B, C), float32: normalized features (B, d) times class weights (C, d)."""
    with torch.autocast(features.device.type, enabled=False):
        return normalize(features.float(), dim=-1) @ head.T
