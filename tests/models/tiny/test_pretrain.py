import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tsv_exp.finetuning.training import Recipe as Finetuning
from tsv_exp.models.tiny.captions import Wording, pool
from tsv_exp.models.tiny.data import Data
from tsv_exp.models.tiny.model import TinyModel
from tsv_exp.models.tiny.network import Sizes, sizes_of, tokenize
from tsv_exp.models.tiny.pretrain import Recipe, contrastive_loss, pretrain


def test_pool_has_a_caption_in_known_words_for_every_image() -> None:
    images, captions = pool(600, Wording(own=0.5), seed=0)
    assert len(images) == len(captions) > 500
    assert (tokenize(captions)[:, 0] == 1).all()
    again, same = pool(600, Wording(own=0.5), seed=0)
    assert torch.equal(images, again)
    assert captions == same


def test_wording_decides_between_names_and_aliases() -> None:
    named = pool(300, Wording(own=1.0, colour=0.0), seed=0)[1]
    assert not any(re.search(r"w\d", caption) for caption in named)
    aliases = pool(300, Wording(own=0.0), seed=0)[1]
    assert not any("letter" in caption or "digit" in caption for caption in aliases)


def test_loss_is_least_for_matching_pairs_and_counts_equal_captions_as_positives() -> None:
    unit, scale = torch.eye(4), torch.tensor(20.0)
    apart = torch.arange(4)
    assert contrastive_loss(unit, unit, scale, apart) < 1e-3
    assert contrastive_loss(unit, unit.roll(1, 0), scale, apart) > 10
    twins = torch.stack([unit[0], unit[0]])
    assert contrastive_loss(twins, twins, scale, torch.tensor([0, 0])).item() == pytest.approx(math.log(2))


def test_a_few_steps_of_pretraining_are_reproducible() -> None:
    recipe = Recipe(images=600, steps=2, batch_size=64)
    first, again = pretrain(recipe).state_dict(), pretrain(recipe).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_network_of_other_sizes_is_a_base_like_the_packaged_one(tmp_path: Path) -> None:
    sizes = Sizes(width=64, layers=3, mlp_ratio=1.5, embedding=32)
    clip = pretrain(Recipe(images=200, steps=1, batch_size=32, sizes=sizes))
    save_file(clip.state_dict(), tmp_path / "base.safetensors")
    assert sizes_of(clip.state_dict()) == sizes
    model = TinyModel(Data(0), Finetuning(lr=1e-3, steps=1), base=str(tmp_path / "base.safetensors"))
    encoder = model.encoder()
    assert encoder(torch.zeros(2, 3, 28, 28)).shape == (2, 32)
    assert len(encoder.transformer.resblocks) == 3
    assert all(torch.equal(weight, clip.visual.state_dict()[name]) for name, weight in encoder.state_dict().items())
    assert model.head(model.catalogue()["dice"]).shape == (6, 32)
