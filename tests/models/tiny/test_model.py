from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import Recipe
from tsv_exp.models.tiny import network
from tsv_exp.models.tiny.data import Data
from tsv_exp.models.tiny.model import TinyModel

DATA = Data(seed=1, train=256, validation=40, test=10)
RECIPE = Recipe(lr=1e-3, steps=4, batch_size=32, trainable=("*.weight", "proj"), precision="float32")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return TinyModel(DATA, RECIPE)


def test_catalogue_heads_and_encoder_fit_together(model: TinyModel) -> None:
    encoder = model.encoder()
    for task in model.catalogue().values():
        head = model.head(task)
        assert head.shape == (len(task.classes), network.EMBEDDING)
        assert head.dtype is torch.float32
        assert torch.allclose(head.norm(dim=1), head.norm(dim=1)[0])
    split = model.split(task, "validation")
    with torch.no_grad():
        assert encoder(model.prepare(split.inputs, torch.device("cpu"))).shape == (40, network.EMBEDDING)


def test_the_shipped_base_is_far_above_chance(model: TinyModel) -> None:
    encoder, right = model.encoder(), 0.0
    for name in ("digits", "shapes", "colors", "arrows"):
        task = model.catalogue()[name]
        split = model.split(task, "validation")
        with torch.no_grad():
            scores = normalize(encoder(model.prepare(split.inputs, torch.device("cpu"))), dim=-1) @ model.head(task).T
        right += (scores.argmax(1) == split.labels).double().mean().item() / 4
    assert right > 0.25


def test_finetuned_weights_are_cached_and_keyed(model: TinyModel) -> None:
    task = model.catalogue()["dice"]
    first = model.finetuned([task])["dice"]
    base = model.base()
    assert list(first) == list(base)
    assert not torch.equal(first["proj"], base["proj"])
    assert torch.equal(first["conv1.weight"], base["conv1.weight"]) is False
    assert torch.equal(first["class_embedding"], base["class_embedding"])
    again = TinyModel(DATA, RECIPE).finetuned([task])["dice"]
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = TinyModel(DATA, RECIPE, seed=1).finetuned([task])["dice"]
    assert not torch.equal(first["proj"], other["proj"])


def test_weights_and_heads_do_not_depend_on_the_number_of_threads(model: TinyModel, tmp_path: Path) -> None:
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            fresh = TinyModel(DATA, RECIPE)
            task = fresh.catalogue()["dice"]
            found.append({**fresh._train(task, lambda: None), "head": fresh.head(task)})
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_identity_follows_data_and_head(model: TinyModel) -> None:
    one, two = list(model.catalogue().values())[:2]
    other = TinyModel(Data(seed=2), RECIPE)
    assert model.identity(one) == TinyModel(DATA, RECIPE, seed=3).identity(one)
    assert len({model.identity(one), model.identity(two), other.identity(one)}) == 3


def test_words_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(KeyError):
        network.tokenize(["a photo of the platypus"])


def test_texts_end_with_the_highest_number() -> None:
    tokens = network.tokenize(["the red king", "the"])
    assert tokens.shape == (2, network.CONTEXT)
    assert tokens.argmax(1).tolist() == [4, 2]
    assert (tokens[1, 3:] == 0).all()


def test_another_pretrained_base(model: TinyModel, tmp_path: Path) -> None:
    file = tmp_path / "base.safetensors"
    save_file({name: weight + 0.01 for name, weight in network.base_weights().items()}, file)
    other = TinyModel(DATA, RECIPE, base=str(file))
    task = model.catalogue()["dice"]
    assert torch.equal(other.base()["proj"], model.base()["proj"] + 0.01)
    assert other.identity(task) != model.identity(task)


@pytest.mark.parametrize("content", [None, b"text", "foreign"])
def test_a_file_that_is_no_base_is_named(content: object, tmp_path: Path) -> None:
    file = tmp_path / "base.safetensors"
    if content == "foreign":
        save_file({"weight": torch.zeros(2)}, file)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.base=.*base\.safetensors.*pretrain"):
        TinyModel(DATA, RECIPE, base=str(file)).base()
