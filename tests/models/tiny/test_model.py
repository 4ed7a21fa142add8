from pathlib import Path

import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import save_file
from torch.nn.functional import normalize

from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import Recipe
from tsv_exp.models.tiny import network
from tsv_exp.models.tiny.catalogue import TEMPLATES
from tsv_exp.models.tiny.data import Data, Drawn
from tsv_exp.models.tiny.model import TinyModel
from tsv_exp.tasks.definitions import complete
from tsv_exp.tasks.task import Task

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
        assert head.shape == (len(task.classes), network.Sizes().embedding)
        assert head.dtype is torch.float32
        assert torch.allclose(head.norm(dim=1), head.norm(dim=1)[0])
    split = model.split(task, "validation")
    with torch.no_grad():
        assert encoder(model.prepare(split.inputs, torch.device("cpu"))).shape == (40, network.Sizes().embedding)


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


def test_weights_and_heads_do_not_depend_on_the_number_of_threads(
    model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / str(threads)))
            fresh = TinyModel(DATA, RECIPE)
            task = fresh.catalogue()["dice"]
            found.append({**fresh.finetuned([task])["dice"], "head": fresh.head(task)})
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_identity_follows_data_and_head(model: TinyModel) -> None:
    one, two = list(model.catalogue().values())[:2]
    other = TinyModel(Data(seed=2), RECIPE)
    assert model.identity(one) == TinyModel(DATA, RECIPE, seed=3).identity(one)
    assert len({model.identity(one), model.identity(two), other.identity(one)}) == 3


def test_tasks_have_the_classes_of_the_data() -> None:
    few = TinyModel(Data(seed=1, validation=40, classes=3), RECIPE, name="few")
    task = few.catalogue()["dice"]
    assert task.classes == ("one", "two", "three")
    assert set(few.split(task, "validation").labels.tolist()) == {0, 1, 2}
    assert few.head(task).shape == (3, network.Sizes().embedding)
    assert few.family == "few"


def test_words_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(KeyError):
        network.tokenize(["a photo of the platypus"])


def test_texts_end_with_the_highest_number() -> None:
    tokens = network.tokenize(["the red king", "the"])
    assert tokens.shape == (2, network.CONTEXT)
    assert tokens.argmax(1).tolist() == [4, 2]
    assert (tokens[1, 3:] == 0).all()


def own(folder: Path, *classes: str) -> Task:
    """A task of pictures in a folder."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Picture.new("RGB", (50, 40), (100 * number, i, 0)).save(folder / name / f"{i}.png")
    return TinyModel(DATA, RECIPE).task("mine", complete("mine", {"data": str(folder)}, {}))


def test_pictures_of_ones_own(model: TinyModel, tmp_path: Path) -> None:
    task = own(tmp_path / "data", "red", "blue")
    assert task.templates == TEMPLATES
    splits = [model.split(task, name) for name in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [15, 1, 4]
    assert splits[0].inputs[:].shape == (15, 3, 28, 28)
    assert set(splits[0].inputs[:][:, 0, 0, 0].tolist()) == {0, 100}
    before = model.identity(task)
    (tmp_path / "data/red/0.png").unlink()
    assert model.identity(task) != before


def test_words_and_classes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = TinyModel(DATA, RECIPE)
    with pytest.raises(UserError, match=r"task mine: model=tiny does not know the word 'platypus' .*; it knows .*red"):
        model.head(own(tmp_path / "data", "red", "platypus"))
    few = model.task(
        "dice",
        complete(
            "dice", {"data": {"_target_": "tsv_exp.models.tiny.data.Drawn", "subject": "dice"}, "classes": ["one"]}, {}
        ),
    )
    with pytest.raises(UserError, match=r"data of dice \(drawn\) has 6 classes .*, but the task has 1 "):
        model.split(few, "test")
    with pytest.raises(UserError, match=r"data\.subject=cards: unknown subject; choose from: digits"):
        Drawn("cards")


def test_synthetic_tasks_are_a_source_for_other_models_too() -> None:
    source = Drawn("colors", Data(seed=1, test=6))
    task = TinyModel(DATA, RECIPE).catalogue()["colors"]
    examples = source.examples(task, "test", "image")
    expected = source.data.split("colors", "test")
    assert torch.equal(examples.labels, expected.labels)
    assert examples.picture(2).getpixel((5, 9)) == tuple(expected.inputs[:][2, :, 9, 5].tolist())
    with pytest.raises(UserError, match="these are images; choose a model of images"):
        source.examples(task, "test", "text")


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
