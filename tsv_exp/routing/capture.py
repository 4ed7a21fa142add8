"""The inputs of linear layers during a forward pass, handed on layer by layer and never kept together."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Receiver = Callable[[str, Tensor, Tensor], None]  # name, inputs (B, L, n), weights (B, L)

_WEIGHTS = ("weight", "in_proj_weight")


def input_axis(module: nn.Module, parameter: str) -> int | None:
    """Along which axis of a module's weight its inputs lie; None if the module is no linear layer of one input.

    1 for linear layers and for attention with one matrix for queries, keys and values of the same input; 0 for the
    transposed layers of GPT-2 in transformers.
    """
    if parameter == "in_proj_weight":
        return 1
    if parameter != "weight":
        return None
    if isinstance(module, nn.Linear):
        # the output projection of torch's attention is a Linear whose weight is read without a call
        return None if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear) else 1
    return 0 if type(module).__name__ == "Conv1D" and hasattr(module, "nf") else None


def linear_layers(network: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Parameter name -> the linear layer that it belongs to; parameters of other modules are left out."""
    modules = dict(network.named_modules(remove_duplicate=False))
    found = {}
    for name in names:
        owner, _, parameter = name.rpartition(".")
        if owner in modules and input_axis(modules[owner], parameter) is not None:
            found[name] = modules[owner]
    return found


@contextmanager
def captured(network: nn.Module, names: Iterable[str], mask: Tensor | None, receive: Receiver) -> Iterator[None]:
    """Within the block, hand the inputs of the named linear layers to `receive` whenever the network runs.

    Args:
        network: the network.
        names: parameters of linear layers (`linear_layers`).
        mask: (B, L), nonzero where a token is no padding; None: every token counts. It applies to layers whose inputs
            have its shape.
        receive: takes a layer's name, its inputs (B, L, n), and the weight (B, L) of every token, with sum 1.
    """
    order = _batch_first(network)
    with ExitStack() as stack:
        for name, module in linear_layers(network, names).items():
            owner = name.rpartition(".")[0]

            def hook(_: nn.Module, args: Any, kwargs: Mapping[str, Any], name: str = name, owner: str = owner) -> None:
                inputs = _tokens(args[0] if args else next(iter(kwargs.values())), order(owner))
                receive(name, inputs, token_weights(inputs, mask))

            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def token_weights(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Weights (B, L), float32, equal over the tokens of an example that are no padding, with sum 1.

    Args:
        inputs: (B, L, n).
        mask: (B, L), or of another shape or None, which means that no token is padding.
    """
    if mask is None or mask.shape != inputs.shape[:2]:
        return torch.full(inputs.shape[:2], 1 / inputs.shape[1], device=inputs.device)
    kept = (mask != 0).to(inputs.device, torch.float32)
    return kept / kept.sum(1, keepdim=True).clamp_min(1)


def _tokens(inputs: Tensor, batch_first: bool) -> Tensor:
    """Inputs (B, L, n) of a layer that received (B, n), (B, L, n), (L, B, n) or (B, H, W, n)."""
    inputs = inputs.detach()
    if inputs.dim() == 2:
        return inputs.unsqueeze(1)
    if inputs.dim() == 3 and not batch_first:
        return inputs.transpose(0, 1)
    return inputs.flatten(1, -2)


def _batch_first(network: nn.Module) -> Callable[[str], bool]:
    """Whether the module of a name receives the batch as its first axis.

    It does unless an attention in the nearest enclosing module that has one says otherwise by its `batch_first`.
    """
    modules = dict(network.named_modules())

    def first(owner: str) -> bool:
        while True:
            inside = [module for module in modules[owner].modules() if hasattr(module, "batch_first")]
            if inside:
                return bool(inside[0].batch_first)
            if not owner:
                return True
            owner = owner.rpartition(".")[0]

    return first
