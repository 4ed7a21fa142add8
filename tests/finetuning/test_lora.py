"""Low-rank fine-tuning: what is trained, its result, and that nothing else depends on it."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tsv_exp.errors import UserError
from tsv_exp.finetuning.lora import Lora, absorb, attach
from tsv_exp.finetuning.training import PublishedRecipe, Recipe, finetune
from tsv_exp.storage.digests import digest
from tsv_exp.tasks.task import Split

RECIPE = Recipe(lr=0.01, steps=12, batch_size=8, precision="float32", lora=Lora(rank=2, lr_factor=5))


class Toy(nn.Module):
    """Tokens (B, 4) -> logits (B, 3): a table, attention, two linear layers, a norm and a bare projection."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 6)
        self.attn = nn.MultiheadAttention(6, 2, batch_first=True)
        self.fc = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.proj = nn.Parameter(torch.randn(8, 3))

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.table(tokens)
        mixed = embedded + self.attn(embedded, embedded, embedded, need_weights=False)[0]
        return self.norm(self.fc(mixed.mean(1))).relu() @ self.proj


MATRICES = ["attn.in_proj_weight", "attn.out_proj.weight", "fc.weight", "proj"]


def toy() -> Toy:
    torch.manual_seed(1)
    return Toy()


def data() -> Split:
    """Class i: tokens 3 i to 3 i + 2."""
    labels = torch.arange(33) % 3
    return Split(3 * labels[:, None] + torch.randint(0, 3, (33, 4), generator=torch.Generator().manual_seed(0)), labels)


def trained(recipe: Recipe = RECIPE, seed: int = 0, identity: str = "", **rest: object) -> Mapping[str, Tensor]:
    encoder, prepare = toy(), lambda inputs, device: inputs.to(device)
    loss = lambda network, batch, labels: cross_entropy(network(batch), labels)  # noqa: E731
    finetune(encoder, loss, prepare, data(), recipe, seed, identity, **rest)  # type: ignore[arg-type]
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    return encoder.state_dict()


def test_only_matrices_change_and_by_at_most_the_rank() -> None:
    before, after = toy().state_dict(), trained()
    assert after.keys() == before.keys()
    for name, weight in after.items():
        rank = int(torch.linalg.matrix_rank((weight - before[name]).double(), rtol=1e-5)) if weight.dim() == 2 else None
        assert rank == 2 if name in MATRICES else torch.equal(weight, before[name]), name


def test_it_learns() -> None:
    encoder, split = toy(), data()
    right = lambda: (encoder(split.inputs).argmax(1) == split.labels).double().mean()  # noqa: E731
    assert right() < 0.7
    encoder.load_state_dict(trained(replace(RECIPE, steps=40)))
    assert right() > 0.9


def test_full_rank_factors_take_the_steps_of_gradient_descent() -> None:
    """One step of SGD from B = 0: dL/dB = s · G Aᵀ with G = dL/dW, so that ΔW = −lr · s² · G Aᵀ A, in float64."""
    encoder = toy().double()
    split, lora = data(), Lora(rank=3, alpha=6.0, targets=["fc.weight"])
    loss = cross_entropy(encoder(split.inputs), split.labels)
    (gradient,) = torch.autograd.grad(loss, [encoder.fc.weight])
    before = encoder.fc.weight.detach().clone()
    factors = attach(encoder, dict(encoder.named_parameters()), lora, seed=0)
    (a,), (b,) = ([p for name, p in factors.items() if name.endswith(side)] for side in (".a", ".b"))
    assert a.shape == (3, 6)
    assert a.abs().max() <= 1 / 6**0.5
    cross_entropy(encoder(split.inputs), split.labels).backward()
    assert not a.grad.any()  # B is zero
    with torch.no_grad():
        b -= 0.1 * b.grad
    absorb(encoder)
    expected = before - 0.1 * 4 * gradient @ a.T @ a
    torch.testing.assert_close(encoder.state_dict()["fc.weight"], expected.detach(), atol=1e-14, rtol=1e-12)


def test_the_first_factors_depend_on_seed_and_task() -> None:
    first = trained()["fc.weight"]
    assert torch.equal(first, trained()["fc.weight"])
    assert not torch.equal(first, trained(seed=1)["fc.weight"])
    assert not torch.equal(first, trained(identity="another task")["fc.weight"])


def test_targets_are_trainable_matrices_that_match() -> None:
    before = toy().state_dict()

    def moved(trainable: list[str], targets: list[str]) -> set[str]:
        after = trained(replace(RECIPE, trainable=trainable, lora=replace(RECIPE.lora, targets=targets)))
        return {name for name, weight in after.items() if not torch.equal(weight, before[name])}

    assert moved(["*"], ["*"]) == set(MATRICES)
    assert moved(["fc.*", "table.*", "proj"], ["*weight"]) == {"fc.weight"}
    with pytest.raises(UserError, match=r"finetune\.lora\.targets=\['\*query'\]: no matrix has such a name"):
        moved(["*"], ["*query"])


def test_a_killed_training_goes_on_with_the_same_result(tmp_path: Path) -> None:
    whole, taken = trained(), []

    def stop() -> None:
        taken.append(1)
        if len(taken) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(advance=stop, state=tmp_path / "state.pt", every=5)
    again = trained(state=tmp_path / "state.pt", every=5)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rank", 0), ("alpha", 0.0), ("alpha", float("inf")), ("alpha", float("nan")), ("targets", []), ("lr_factor", -1)],
)
def test_wrong_settings(name: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"finetune\.lora\.{name}=.*: give "):
        Lora(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", [Recipe(lr=0.1, steps=3), PublishedRecipe(lr=0.1, steps=3)])
def test_keys_of_full_fine_tuning_are_those_from_before_low_rank_factors(recipe: Recipe) -> None:
    before = {name: value for name, value in asdict(recipe).items() if name != "lora"} | {"trainable": ["*"]}
    assert digest(recipe.settings()) == digest(before)
    kinds = [recipe, *(replace(recipe, lora=lora) for lora in (Lora(), Lora(rank=4), Lora(alpha=32.0)))]
    assert len({digest(kind.settings()) for kind in kinds}) == 4
