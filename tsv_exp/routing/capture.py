"""The inputs of linear layers during a forward pass, passed on layer by layer and never stored together."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

Receiver = Callable[[str, Tensor], None]  # name, inputs (B, L, n)


def linear_layers(network: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Parameter name -> the module whose input the parameter multiplies; other parameters are left out.

    These are the weights of linear layers, those of transformers' Conv1D included, and matrices of queries, keys and
    values that share one input. The output projection of torch's attention is no module that is called.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    found = {}
    for name in names:
        owner, _, parameter = name.rpartition(".")
        module = modules.get(owner)
        linear = stores_transposed(module) or (
            isinstance(module, nn.Linear) and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
        )
        if module is not None and (parameter == "in_proj_weight" or (parameter == "weight" and linear)):
            found[name] = module
    return found


def stores_transposed(module: nn.Module | None) -> bool:
    """Whether a module is a linear layer whose weight is (in, out): transformers' Conv1D (GPT-2 and others)."""
    library = sys.modules.get("transformers.pytorch_utils")  # not imported: no module of it, no such layer
    return library is not None and isinstance(module, library.Conv1D)


@contextmanager
def captured(network: nn.Module, names: Iterable[str], receive: Receiver) -> Iterator[None]:
    """Within the block, hand the inputs (B, L, n) of the named layers to `receive` whenever the network runs.

    Args:
        network: the network.
        names: parameters, as `linear_layers` finds them; inputs (B, n) have L = 1, and further axes become tokens.
        receive: takes a parameter's name and the inputs, without gradients.
    """
    with ExitStack() as stack:
        for name, module in linear_layers(network, names).items():
            batch_first = is_batch_first(network, name.rpartition(".")[0])

            def hook(
                _: nn.Module, args: Any, kwargs: Mapping[str, Any], name: str = name, first: bool = batch_first
            ) -> None:
                receive(name, as_tokens(first_input(args, kwargs).detach(), first))

            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The first argument of a call: a linear layer's input, an attention's query."""
    found: Tensor = args[0] if args else next(iter(kwargs.values()))
    return found


def as_tokens(inputs: Tensor, batch_first: bool) -> Tensor:
    """Inputs (B, L, n) of a layer that received (B, n), (B, L, n), (L, B, n) or (B, H, W, n)."""
    if inputs.dim() == 2:
        return inputs.unsqueeze(1)
    if inputs.dim() == 3 and not batch_first:
        return inputs.transpose(0, 1)
    return inputs.flatten(1, -2)


def is_batch_first(network: nn.Module, owner: str) -> bool:
    """Whether the module named `owner` receives the batch as its first axis.

    It does unless an attention in the nearest enclosing module that has one says otherwise by its `batch_first`.
    """
    while True:
        inside = (module for module in network.get_submodule(owner).modules() if hasattr(module, "batch_first"))
        if (attention := next(inside, None)) is not None:
            return bool(attention.batch_first)
        if not owner:
            return True
        owner = owner.rpartition(".")[0]
