"""Which tokens count."""

import pytest
import torch
from blocks import WIDTH, Block
from torch import Tensor, nn

from tsv_exp.routing.tokens import Support, supports, token_weights


def found(network: nn.Module, x: Tensor, mask: Tensor | None = None) -> dict[str, Support]:
    with torch.inference_mode():
        return supports(network, [name for name, _ in network.named_parameters()], lambda: network(x), mask)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_last_mlp_before_the_first_token_is_pooled_has_that_token_only(batch_first: bool) -> None:
    x = torch.randn(2, 4, WIDTH)
    kinds = found(Block(batch_first), x)
    assert {name: kind for name, kind in kinds.items() if kind != "all"} == {
        "blocks.1.mlp.0.weight": "first",
        "blocks.1.mlp.2.weight": "first",
    }
    assert set(found(Block(batch_first, cls=False), x).values()) == {"all"}


class Last(nn.Module):
    """Pools the last token that is no padding."""

    def __init__(self, mask: Tensor):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.unused = nn.Linear(3, 3)
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)[torch.arange(len(x)), self.mask.sum(1) - 1]


def test_the_last_token_is_that_before_the_padding() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    assert found(Last(mask), torch.randn(2, 4, 3), mask) == {"linear.weight": "last"}  # `unused` does not run


class Windows(nn.Module):
    """Attends within windows of two tokens, with positions that all examples share, as Swin and DeBERTa do."""

    def __init__(self) -> None:
        super().__init__()
        self.window = nn.Linear(3, 3)
        self.position = nn.Linear(3, 3)
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.window(x.reshape(-1, 2, 3)).view(x.shape)
        return self.linear(inside + self.position(torch.ones(1, x.shape[1], 3))).mean(1)


def test_layers_whose_inputs_have_no_axis_of_examples_are_left_out() -> None:
    assert found(Windows(), torch.randn(2, 4, 3)) == {"linear.weight": "all"}


def test_weights() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1]])
    shape, cpu = (3, 3), torch.device("cpu")
    kinds: dict[Support, list[list[float]]] = {
        "all": [[0.5, 0.5, 0], [1, 0, 0], [0, 0.5, 0.5]],
        "first": [[1, 0, 0], [1, 0, 0], [0, 1, 0]],
        "last": [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
    }
    for kind, wanted in kinds.items():
        torch.testing.assert_close(token_weights(shape, mask, kind, cpu), torch.tensor(wanted, dtype=torch.float32))
    for other in (None, torch.ones(3, 7)):  # without padding, or of another sequence
        torch.testing.assert_close(token_weights(shape, other, "all", cpu), torch.full(shape, 1 / 3))
    assert (token_weights((1, 2), torch.zeros(1, 2), "all", cpu) == 0).all()
