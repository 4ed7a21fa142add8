from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import Recipe
from tsv_exp.models.tiny import network
from tsv_exp.models.tiny.data import Data
from tsv_exp.models.tiny.model import TinyModel

TRAINED = ("in_proj_weight", "out_proj.weight", "c_fc.weight", "c_proj.weight", "proj")


@pytest.mark.parametrize("gain", [8.0, 3.0])
def test_a_gain_makes_matrices_smaller_and_changes_no_output(gain: float) -> None:
    plain, scaled = network.pretrained_clip(), network.pretrained_clip(gain=gain)
    images = torch.randn(5, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    expected, found = plain.visual(images), scaled.visual(images)
    assert torch.equal(expected, found) if gain == 8 else torch.allclose(expected, found, rtol=1e-4, atol=1e-4)
    before, after = plain.state_dict(), scaled.state_dict()
    for name, weight in before.items():
        trained = name.startswith("visual.") and name.endswith(TRAINED)
        assert (
            torch.equal(after[name], weight / gain) if trained else weight.dim() < 2 or torch.equal(after[name], weight)
        )


def test_a_gain_scales_the_change_of_fine_tuned_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    data, changes = Data(seed=1, train=64, validation=8, test=8), []
    for gain in (1.0, 8.0):  # Adam's steps do not depend on the size of gradients; the clipped norm does
        recipe = Recipe(
            1e-3 / gain, steps=3, batch_size=32, clip=1e9, trainable=("*.c_fc.weight",), precision="float32"
        )
        model = TinyModel(data, recipe, gain=gain)
        tuned = model.finetuned([model.catalogue()["dice"]])["dice"]
        changes.append({name: gain * (tuned[name] - weight) for name, weight in model.base().items()})
    for name in (name for name in changes[0] if name.endswith("c_fc.weight")):
        error = (changes[0][name] - changes[1][name]).norm() / changes[0][name].norm()
        assert changes[0][name].any()
        assert error < 0.02
    assert all(not change.any() for name, change in changes[1].items() if not name.endswith("c_fc.weight"))


def test_an_exported_network_with_a_gain_is_a_base_itself(tmp_path: Path) -> None:
    file = tmp_path / "base.safetensors"
    save_file(dict(network.base_weights(gain=8.0)), file)
    state = network.pretrained_clip(file).state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in network.base_weights(gain=8.0).items())


def test_a_gain_must_be_positive() -> None:
    with pytest.raises(UserError, match=r"model\.gain=0: give a positive number"):
        TinyModel(Data(seed=1), Recipe(1e-3, 1), gain=0)
