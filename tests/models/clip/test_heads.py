"""Heads: what CLIP's definition gives, and when they are taken from the cache."""

from pathlib import Path
from typing import Any

import pytest
import torch
import worlds
from safetensors.torch import save_file

from tsv_exp.config import conf_dir
from tsv_exp.models.clip import network
from tsv_exp.models.clip.model import ClipModel


@pytest.fixture(autouse=True)
def towers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text towers that were built."""
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "cache"))
    build, built = network.text_encoder, []

    def counted(*arguments: Any) -> Any:
        built.append(arguments[2])
        return build(*arguments)

    monkeypatch.setattr(network, "text_encoder", counted)
    return built


def model(file: Path, **changes: object) -> ClipModel:
    settings = {"name": "toy", "architecture": worlds.ARCHITECTURE, "pretrained": str(file), "checkpoints": {}}
    return ClipModel(**settings | changes)


def base(file: Path, **changes: torch.Tensor) -> Path:
    save_file(worlds.whole(0) | changes, file)
    return file


def test_prompts_are_averaged_normalized_and_scaled(tmp_path: Path) -> None:
    import open_clip

    clip = model(base(tmp_path / "base.safetensors"), family="paper")
    task = clip.catalogue()["STL10"]
    whole = open_clip.CLIP(**worlds.ARCHITECTURE).eval()
    whole.load_state_dict(clip.complete(clip.base()))
    head = clip.head(task)
    for name, row in zip(task.classes, head, strict=True):
        prompts = open_clip.tokenize([template.format(name) for template in task.templates])
        with torch.no_grad():
            features = whole.encode_text(prompts)
            mean = (features / features.norm(dim=1, keepdim=True)).mean(0)
            expected = whole.logit_scale.exp() * mean / mean.norm()
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)


def test_a_head_is_made_once_for_its_prompts_and_text_tower(tmp_path: Path, towers: list[str]) -> None:
    file = base(tmp_path / "base.safetensors")
    other = base(tmp_path / "other.safetensors", **{"text_model.final_layer_norm.bias": torch.ones(worlds.TEXT_WIDTH)})
    hub, paper, foreign = model(file, family="hub"), model(file, family="paper"), model(other, family="hub")
    heads = [clip.head(clip.catalogue()["STL10"]) for clip in (hub, paper, foreign)]
    assert len(towers) == len(list((tmp_path / "cache/clip/heads").glob("toy-STL10-*.safetensors"))) == 3
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    again = model(file, family="hub")
    assert torch.equal(again.head(again.catalogue()["STL10"]), heads[0])
    assert len(towers) == 3


@pytest.mark.parametrize("name", ["vit_b_32", "vit_b_16", "vit_l_14"])
def test_the_models_have_the_quick_gelu_of_openais_weights(name: str) -> None:
    from omegaconf import OmegaConf

    assert network.settings(OmegaConf.load(conf_dir() / "model" / f"{name}.yaml").architecture)["quick_gelu"] is True
