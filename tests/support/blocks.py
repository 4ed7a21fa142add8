"""A small transformer in either layout of its activations."""

from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 8


class Block(nn.Module):
    """A transformer block as open_clip has it, in either layout; `cls` pools the first token."""

    def __init__(self, batch_first: bool, cls: bool = True, blocks: int = 2):
        super().__init__()
        torch.manual_seed(0)
        self.batch_first = batch_first
        self.cls = cls
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            block = nn.Module()
            block.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first)
            block.mlp = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))
            self.blocks.append(block)
        self.head = nn.Linear(WIDTH, 5)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        for block in self.blocks:
            modules: Any = block
            x = x + modules.attn(x, x, x, need_weights=False)[0]
            x = x + modules.mlp(x)
        x = x if self.batch_first else x.transpose(0, 1)
        return self.head(x[:, 0] if self.cls else x.mean(1))
