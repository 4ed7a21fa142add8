"""The whole model against a hub on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import worlds
from fresh import downloads, served, told
from hub import Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with served(tmp_path_factory.mktemp("hub"), worlds.first(8), worlds.first(8)) as server:
        yield server


def test_everything_arrives_once(hub: Hub, tmp_path: Path) -> None:
    first = """
clip = model()
tasks = [clip.catalogue()[name] for name in ("DTD", "EuroSAT", "MNIST", "SVHN")]
tuned = clip.finetuned(tasks)
told["family"] = clip.family
told["layers"] = sum(bool(layer.deltas.any()) for layer in TaskVectors(clip.base(), tuned))
told["heads"] = {task.name: list(clip.head(task).shape) for task in tasks}
tests = {task.name: clip.split(task, "test") for task in tasks}
told["test"] = {name: [list(split.inputs.shape), split.labels.tolist()] for name, split in tests.items()}
encoder = clip.encoder()
images, _ = next(clip.split(tasks[0], "test").batches(4))
told["features"] = encoder(clip.prepare(images, torch.device("cpu"))).sum().item()
told["identity"] = clip.identity(tasks[0])
"""
    found = told(hub, tmp_path, first)
    tasks = [task for task in worlds.first(8) if task.name in ("DTD", "EuroSAT", "MNIST", "SVHN")]
    assert found["family"] == "hub"
    assert found["layers"] == 31  # all but the projection
    assert found["heads"] == {task.name: [len(task.classes), worlds.EMBEDDING] for task in tasks}
    for task in tasks:
        shape, labels = found["test"][task.name]
        assert shape == [10, 3, 32, 32]
        assert labels == [i % len(task.classes) for i in range(10)]
    assert len(downloads(hub, ".parquet")) == 4  # one file of test data each, none of train
    offline = told(hub, tmp_path, first, HF_HUB_OFFLINE="1")
    assert offline | {"stderr": ""} == found | {"stderr": ""}


def test_validation_is_drawn_once_and_recorded(hub: Hub, tmp_path: Path) -> None:
    splits = told(
        hub,
        tmp_path,
        """
clip = model()
task = clip.catalogue()["DTD"]
train, validation = clip.split(task, "train"), clip.split(task, "validation")
told["sizes"] = [len(train), len(validation)]
told["train"] = sorted(train.labels.tolist() + validation.labels.tolist())
record, = Path(__import__("os").environ["TSV_EXP_CACHE"]).glob("clip/validation/DTD-*.json")
told["record"] = json.loads(record.read_text())
streamed = model(cache_gb=0).split(task, "validation")
pairs = zip(streamed.batches(1), validation.batches(1), strict=True)
told["same"] = [torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in pairs]
""",
    )
    assert splits["sizes"] == [18, 2]
    assert splits["train"] == sorted(i % 47 for i in range(20))
    assert splits["record"]["rows of train"] == 20
    assert len(splits["record"]["validation"]) == 2
    assert splits["same"] == [True, True]
    assert len(downloads(hub, "train-00000-of-00001.parquet")) == 1


def test_one_repository_with_a_file_per_task(hub: Hub, tmp_path: Path) -> None:
    for number, task in enumerate(worlds.first(2)):
        folder = hub.root / "models/merge/vision8/finetune/openai" / task.name
        folder.mkdir(parents=True)
        torch.save(worlds.moved(worlds.whole(0), 50 + number), folder / "full.pt")  # whole CLIPs
    body = """
place = "merge/vision8@0123456789abcdef0123456789abcdef01234567/finetune/openai/{task}/full.pt"
clip = model(checkpoints=place)
tasks = list(clip.catalogue().values())[:2]
tuned = clip.finetuned(tasks)
told["family"] = clip.family
told["names"] = list(tuned)
told["layers"] = sum(bool(layer.deltas.any()) for layer in TaskVectors(clip.base(), tuned))
told["absent"] = line(lambda: clip.finetuned([clip.catalogue()["SVHN"]]))
"""
    found = told(hub, tmp_path, body)
    assert found["family"] == "merge/vision8"
    assert found["names"] == [task.name for task in worlds.first(2)]
    assert found["layers"] == 32
    assert "SVHN/full.pt: " in str(found["absent"])
    assert len(downloads(hub, "full.pt")) == 2
    assert told(hub, tmp_path, body, HF_HUB_OFFLINE="1")["layers"] == 32
