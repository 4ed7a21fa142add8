import os
from collections.abc import Mapping
from pathlib import Path

import forked
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import PublishedRecipe, Recipe, finetune
from tsv_exp.models.heads import frozen_head_logits
from tsv_exp.tasks.task import Split

CLASSES = 3
RECIPE = Recipe(lr=0.02, steps=30, batch_size=16, precision="float32")


def _prepare(images: Tensor, device: torch.device = torch.device("cpu")) -> Tensor:  # noqa: B008
    return images.to(device).float() / 255


def _loss(encoder: nn.Module, batch: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(frozen_head_logits(encoder(batch), 10 * torch.eye(5)[:CLASSES]), labels)


def _split(count: int = 48) -> Split:
    """Class i: bright channel i."""
    labels = torch.arange(count) % CLASSES
    images = torch.randint(0, 60, (count, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[torch.arange(count), labels] += 150
    return Split(images, labels)


def _trained(recipe: Recipe = RECIPE, seed: int = 0, split: Split | None = None) -> Mapping[str, Tensor]:
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.LayerNorm(8), nn.Linear(8, 5))
    finetune(encoder, _loss, _prepare, split or _split(), recipe, seed)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    return encoder.state_dict()


def _accuracy(weights: Mapping[str, Tensor]) -> float:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.LayerNorm(8), nn.Linear(8, 5))
    encoder.load_state_dict(weights)
    split = _split()
    return (encoder(_prepare(split.inputs))[:, :CLASSES].argmax(1) == split.labels).double().mean().item()


def test_it_learns() -> None:
    untrained = _trained(Recipe(lr=0.02, steps=0, precision="float32"))
    assert _accuracy(untrained) < 0.7
    assert _accuracy(_trained()) == 1.0


def test_same_seed_same_weights_other_seed_others() -> None:
    first, again, other = _trained(), _trained(), _trained(seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_only_matching_parameters_move() -> None:
    still = _trained(Recipe(lr=0.02, steps=0, precision="float32"))
    moved = _trained(Recipe(lr=0.02, steps=3, batch_size=16, trainable=("*.weight", "absent"), precision="float32"))
    changed = {name for name in moved if not torch.equal(moved[name], still[name])}
    assert changed == {"1.weight", "2.weight", "3.weight"}


def test_no_matching_parameter_is_an_error() -> None:
    with pytest.raises(UserError, match="trainable"):
        _trained(Recipe(lr=0.1, steps=1, trainable=("absent",)))


def test_divergence_is_an_error() -> None:
    with pytest.raises(UserError, match="diverged"):
        _trained(Recipe(lr=1e30, steps=10, clip=1e30, warmup=0.0, precision="float32"))


def test_fewer_images_than_a_batch() -> None:
    _trained(Recipe(lr=0.02, steps=3, batch_size=1000, precision="float32"), split=_split(10))


def test_every_step_is_reported() -> None:
    steps: list[int] = []
    finetune(
        nn.Sequential(nn.Flatten(), nn.Linear(48, 5)),
        _loss,
        _prepare,
        _split(),
        RECIPE,
        0,
        advance=lambda: steps.append(1),
    )
    assert len(steps) == RECIPE.steps


def test_rate_warms_up_and_decays_to_almost_nothing() -> None:
    recipe = Recipe(lr=1.0, steps=100, warmup=0.1)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0, abs=0.03)
    assert rates[-1] < 0.001


@pytest.mark.parametrize("steps", [2, 250, 1000])
def test_a_short_training_reaches_the_published_learning_rate(steps: int) -> None:
    rates = [PublishedRecipe(lr=1.0, steps=steps).rate(step) for step in range(steps)]
    assert max(rates) == 1.0
    assert rates.index(1.0) == min(500, steps // 2) - 1


class KilledError(Exception):
    pass


def test_a_killed_training_goes_on_with_the_same_result(tmp_path: Path) -> None:
    state, whole = tmp_path / "state.pt", _trained()
    taken: list[int] = []

    def train(limit: int, recipe: Recipe = RECIPE, data: str = "") -> Mapping[str, Tensor]:
        taken.clear()

        def advance() -> None:
            taken.append(1)
            if len(taken) == limit:
                raise KilledError

        torch.manual_seed(1)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.LayerNorm(8), nn.Linear(8, 5))
        finetune(encoder, _loss, _prepare, _split(), recipe, 0, data, advance, state=state, every=7)
        return encoder.state_dict()

    for limit in (10, 24):
        with pytest.raises(KilledError):
            train(limit)
    assert torch.load(state)["step"] == 21
    again = train(0)
    assert len(taken) == RECIPE.steps
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    with pytest.raises(UserError, match=r"state\.pt.*other settings"):
        train(0, Recipe(lr=0.03, steps=30, batch_size=16, precision="float32"))
    with pytest.raises(UserError, match=r"state\.pt.*other settings"):
        train(0, data="other data or another head")
    state.write_bytes(b"torn")
    with pytest.raises(UserError, match=r"state\.pt.*damaged"):
        train(0)


def process() -> None:
    """One of two processes that train together."""
    from torch import distributed

    distributed.init_process_group("gloo")
    torch.save(_trained(), f"{distributed.get_rank()}.pt")
    with pytest.raises(UserError, match="batch_size=15: it cannot be divided evenly among 2 processes"):
        _trained(Recipe(lr=0.02, steps=1, batch_size=15, precision="float32"))
    distributed.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    code = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); from test_training import process; process()"
    ends = forked.ranks(code, count=2, cwd=tmp_path, env=os.environ)
    assert [end.returncode for end in ends] == [0, 0], ends
    first, second, alone = torch.load(tmp_path / "0.pt"), torch.load(tmp_path / "1.pt"), _trained()
    for name in alone:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], alone[name], atol=1e-4, rtol=1e-3)
