"""Inputs of layers, compared with what the layers' own outputs need."""

import pytest
import torch
from blocks import WIDTH, Block
from torch import Tensor, nn

from tsv_exp.routing.capture import captured, is_batch_first, linear_layers


def inputs_of(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    names = [name for name, _ in network.named_parameters()]
    with captured(network, names, lambda name, inputs: found.__setitem__(name, inputs)), torch.inference_mode():
        network(x)
    return found


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("count", "length"), [(3, 4), (4, 4), (1, 5)])
def test_inputs_have_the_batch_first(batch_first: bool, count: int, length: int) -> None:
    network = Block(batch_first)
    x = torch.randn(count, length, WIDTH, generator=torch.Generator().manual_seed(1))
    found = inputs_of(network, x)
    assert set(found) == {
        *(f"blocks.{i}.{layer}" for i in (0, 1) for layer in ("attn.in_proj_weight", "mlp.0.weight", "mlp.2.weight")),
        "head.weight",
    }
    torch.testing.assert_close(found["blocks.0.attn.in_proj_weight"], x)
    torch.testing.assert_close(network.head(found["head.weight"])[:, 0], network(x))
    alone = inputs_of(network, x[:1])
    for name, inputs in found.items():
        assert inputs.shape[0] == count
        torch.testing.assert_close(inputs[:1], alone[name], rtol=1e-5, atol=1e-6)


def test_both_layouts_are_alike() -> None:
    x = torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    first, second = inputs_of(Block(True), x), inputs_of(Block(False), x)
    for name, inputs in first.items():
        torch.testing.assert_close(inputs, second[name], rtol=1e-5, atol=1e-6)


def test_layers_of_torch_that_run_without_calls_are_called() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, batch_first=True).eval()  # has a fast path
    found = inputs_of(layer, torch.randn(2, 3, WIDTH))
    assert set(found) == {"self_attn.in_proj_weight", "linear1.weight", "linear2.weight"}


def test_only_linear_layers_are_read() -> None:
    network = nn.ModuleDict(
        {
            "embedding": nn.Embedding(4, 3),
            "conv": nn.Conv2d(1, 1, 2),
            "norm": nn.LayerNorm(3),
            "linear": nn.Linear(3, 3),
        }
    )
    names = [*dict(network.named_parameters()), "nothing.weight", "linear"]
    assert list(linear_layers(network, names)) == ["linear.weight"]


def test_hooks_are_gone_afterwards_also_after_an_error() -> None:
    network = Block(True)
    with pytest.raises(RuntimeError, match="mine"), captured(network, ["head.weight"], _refuse):
        network(torch.randn(2, 3, WIDTH))
    assert not any(module._forward_pre_hooks for module in network.modules())


def _refuse(name: str, inputs: Tensor) -> None:
    raise RuntimeError("mine")


def test_a_layer_of_images() -> None:
    network = nn.Sequential(nn.Linear(3, 4))
    assert inputs_of(network, torch.randn(2, 5, 6, 3))["0.weight"].shape == (2, 30, 3)
    assert is_batch_first(network, "0")
