"""Saved models load into open_clip as they are, and give the features of the merged encoder."""

import json
from pathlib import Path

import pytest
import torch
import worlds
from encoders import network as network_of
from encoders import saved
from safetensors.torch import load_file, save_file

from tsv_exp import apply, merge
from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import Recipe
from tsv_exp.models.clip.model import ClipModel
from tsv_exp.models.export import save_merged
from tsv_exp.models.text.model import TextEncoder
from tsv_exp.models.tiny import network
from tsv_exp.models.tiny.data import Data
from tsv_exp.models.tiny.model import TinyModel
from tsv_exp.tasks.task import Task

ALPHA = 0.7


def merged(model, method):
    """A merge of models some way from the base."""
    base = dict(model.base())
    return merge(base, {f"t{i}": worlds.moved(base, i) for i in range(2)}, method)


def check(model, clip, found, path, task=None):
    clip.load_state_dict(load_file(path), strict=True)
    encoder = model.encoder()
    encoder.load_state_dict(apply(model.base(), found, ALPHA, task))
    images = torch.randn(2, 3, *([clip.visual.image_size[0]] * 2))
    torch.testing.assert_close(clip.eval().encode_image(images).detach(), encoder(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["tsv_m", "tsv_c"])
def test_clip(method: str, tmp_path: Path) -> None:
    save_file(worlds.whole(0), tmp_path / "base.safetensors")
    model = ClipModel("toy", worlds.ARCHITECTURE, str(tmp_path / "base.safetensors"), {})
    found = merged(model, method)
    files = save_merged(model, {}, found, ALPHA, tmp_path / "run")
    names = ["merged/t0.safetensors", "merged/t1.safetensors"] if found.per_task else ["merged.safetensors"]
    assert files == [str(tmp_path / "run" / name) for name in names]
    import open_clip  # slow, as is transformers

    clip = open_clip.CLIP(**worlds.ARCHITECTURE)
    for file, task in zip(files, found.tasks, strict=False):
        check(model, clip, found, file, task if found.per_task else None)
    texts = open_clip.tokenize(["a cat", "two"])
    base = open_clip.CLIP(**worlds.ARCHITECTURE)
    base.load_state_dict(model.complete(model.base()))
    assert torch.equal(clip.encode_text(texts), base.encode_text(texts))


def test_open_clip_opens_the_file_by_its_name(tmp_path: Path) -> None:
    import open_clip

    save_file(worlds.whole(0), tmp_path / "base.safetensors")
    model = ClipModel("toy", worlds.ARCHITECTURE, str(tmp_path / "base.safetensors"), {})
    found = merged(model, "tsv_m")
    (file,) = save_merged(model, {}, found, ALPHA, tmp_path)
    (tmp_path / "Toy.json").write_text(json.dumps(worlds.ARCHITECTURE), encoding="utf-8")
    open_clip.add_model_config(tmp_path / "Toy.json")
    opened = open_clip.create_model("Toy", pretrained=file).state_dict()
    assert all(torch.equal(weight, opened[name]) for name, weight in load_file(file).items())


def test_the_tiny_model(tmp_path: Path) -> None:
    model = TinyModel(Data(seed=1, train=9, validation=9, test=9), Recipe(lr=1e-3, steps=1))
    found = merged(model, "task_arithmetic")
    (file,) = save_merged(model, {}, found, ALPHA, tmp_path)
    check(model, network.new_clip(), found, file)


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyModel(Data(seed=1, train=9, validation=9, test=9), Recipe(lr=1e-3, steps=1))

    def full(path: Path, _: object) -> None:
        path.write_bytes(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tsv_exp.models.export.save", full)
    with pytest.raises(UserError, match=r"merged\.safetensors: No space left on device"):
        save_merged(model, {}, merged(model, "weight_average"), ALPHA, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["tsv_m", "tsv_c"])
def test_transformers_opens_the_folder(method: str, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    base = saved(tmp_path / "base", network_of("bert"))
    model = TextEncoder("toy", str(base), {}, device="cpu")
    found = merged(model, method)
    folders = save_merged(model, {}, found, ALPHA, tmp_path / "run")
    names = ["merged/t0", "merged/t1"] if found.per_task else ["merged"]
    assert folders == [str(tmp_path / "run" / name) for name in names]
    for folder, task in zip(folders, found.tasks, strict=False):
        opened, info = AutoModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        expected = apply(model.base(), found, ALPHA, task if found.per_task else None)
        assert all(torch.equal(weight, expected[name]) for name, weight in opened.state_dict().items())
        assert AutoTokenizer.from_pretrained(folder)("good film")["input_ids"] == [2, 5, 9, 3]


@pytest.mark.parametrize("method", ["tsv_m", "tsv_c"])
def test_classifiers_are_saved_with_the_head_of_each_checkpoint(method: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = saved(tmp_path / "base", network_of("bert", "SequenceClassification"))
    labels = {"a": {0: "BAD", 1: "fine", 2: "good"}, "b": {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}}
    places = {
        name: str(saved(tmp_path / name, network_of("bert", "SequenceClassification", seed=i, id2label=labels[name])))
        for i, name in enumerate(labels, 1)
    }
    model = TextEncoder("toy", str(base), places, head="classifier", device="cpu")
    tasks = {name: Task(name, ("good", "bad", "fine"), ("{}",)) for name in labels}
    found = merge(dict(model.base()), model.finetuned(list(tasks.values())), method)
    folders = save_merged(model, tasks, found, ALPHA, tmp_path / "run")
    assert folders == [str(tmp_path / "run" / "merged" / name) for name in labels]
    batch = AutoTokenizer.from_pretrained(folders[0])(["good film", "bad plot"], return_tensors="pt")
    for folder, task in zip(folders, tasks.values(), strict=True):
        opened, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        encoder = model.encoder()
        encoder.load_state_dict(apply(model.base(), found, ALPHA, task.name if found.per_task else None))
        columns = [opened.config.label2id[name] for name in task.classes]
        with torch.no_grad():
            torch.testing.assert_close(opened.eval()(**batch).logits[:, columns], model.logits(encoder, batch, task))
    assert opened.config.id2label == {0: "good", 1: "bad", 2: "fine"}
