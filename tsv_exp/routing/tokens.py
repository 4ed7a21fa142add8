"""The tokens of an example that a router uses: those of a layer's inputs on which the network's output depends.

Only these tokens shaped the layer's task matrix, since the others have no gradient. In the last block of a network that
pools its first token, the MLP is such a layer: its inputs at all other tokens are of no use to the output.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tsv_exp.routing.capture import as_tokens, first_input, is_batch_first, linear_layers

Support = Literal["all", "first", "last"]

PROBES = 4  # examples that tell which tokens count


def padding_mask(batch: Any) -> Tensor | None:
    """The mask (B, L) of a prepared batch, nonzero where a token is no padding; None if nothing is padded.

    It is what transformers' networks take as `attention_mask`.
    """
    found = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    return found if isinstance(found, Tensor) and found.dim() == 2 else None


def token_weights(shape: tuple[int, int], mask: Tensor | None, support: Support, device: torch.device) -> Tensor:
    """Weights (B, L), float32, equal over the tokens of an example that count, with sum 1.

    Args:
        shape: B, L.
        mask: (B, L), nonzero where a token is no padding; of another shape or None: no token is padding.
        support: all tokens without padding, the first or the last of them.
        device: of the result.
    """
    kept = torch.ones(shape, device=device)
    if mask is not None and mask.shape == shape:
        kept = (mask != 0).to(kept)
    if support == "first":
        kept = kept * (kept.cumsum(1) == 1)
    elif support == "last":
        kept = kept * (kept.flip(1).cumsum(1).flip(1) == 1)
    return kept / kept.sum(1, keepdim=True).clamp_min(1)


def supports(
    network: nn.Module, names: Iterable[str], run: Callable[[], Tensor], mask: Tensor | None
) -> dict[str, Support]:
    """Layer -> the tokens of its inputs on which the output depends, found by one backward pass.

    A layer gets `first` or `last` only if all examples have it, else `all`. Layers that the pass does not reach are
    left out, and those whose inputs have no axis of examples.

    Args:
        network: the network, in evaluation mode.
        names: parameters, as `linear_layers` finds them.
        run: runs the network on a few examples; returns outputs (B, ...) that depend on every token that matters.
        mask: (B, L), nonzero where a token is no padding; or None.
    """
    probes: dict[str, Tensor] = {}
    order: dict[str, bool] = {}
    with ExitStack() as stack, torch.inference_mode(False), torch.enable_grad():
        for name, module in linear_layers(network, names).items():
            order[name] = is_batch_first(network, name.rpartition(".")[0])

            def hook(_: nn.Module, args: Any, kwargs: Mapping[str, Any], name: str = name) -> Any:
                inputs = first_input(args, kwargs)
                probe = probes[name] = torch.zeros_like(inputs, requires_grad=True)
                moved = inputs + probe  # adding keeps the graph of the layers before
                same = {key: moved if value is inputs else value for key, value in kwargs.items()}
                return tuple(moved if value is inputs else value for value in args), same

            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        outputs = run().float()
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(outputs.shape, generator=generator).to(outputs)  # a plain sum may be constant
        total, found = (outputs * weights).sum(), list(probes.values())
        gradients = torch.autograd.grad(total, found, allow_unused=True) if found else ()
    kinds: dict[str, Support] = {}
    for (name, probe), gradient in zip(probes.items(), gradients, strict=True):
        used = as_tokens(torch.zeros_like(probe) if gradient is None else gradient, order[name]).any(2)
        if len(used) == len(outputs):  # not windows of an image, or positions that all examples share
            kinds[name] = _support(used, mask)
    return kinds


def _support(used: Tensor, mask: Tensor | None) -> Support:
    """Of which kind the used tokens (B, L) are."""
    for support in ("first", "last"):
        only = token_weights((used.shape[0], used.shape[1]), mask, support, used.device) > 0
        if used.shape[1] > 1 and torch.equal(used, only):
            return support
    return "all"
