"""The whole model against a hub on loopback."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import worlds  # noqa: E402
from fresh import downloads, told  # noqa: E402
from hub import COMMIT, Hub  # noqa: E402


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    worlds.models(root, worlds.first(8))
    worlds.data(root, worlds.first(8))
    with Hub(root).running() as server:
        yield server


def test_everything_arrives_once(hub: Hub, tmp_path: Path) -> None:
    first = """
clip = model()
tasks = select(clip.catalogue(), ["DTD", "EuroSAT", "MNIST", "SVHN"])
tuned = clip.finetuned(tasks)
told["family"] = clip.family
told["layers"] = sum(bool(layer.deltas.any()) for layer in TaskVectors(clip.base(), tuned))
told["heads"] = {task.name: list(clip.head(task).shape) for task in tasks}
tests = {task.name: clip.split(task, "test") for task in tasks}
told["test"] = {name: [list(split.images.shape), split.labels.tolist()] for name, split in tests.items()}
encoder = clip.encoder()
images, _ = next(clip.split(tasks[0], "test").batches(4))
told["features"] = encoder(clip.normalize(images)).sum().item()
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


def test_failures_of_the_hub_are_one_line(hub: Hub, tmp_path: Path) -> None:
    root = hub.root / "datasets/bad"
    worlds.parquet(root / "columns/data/test.parquet", ["a", "b"], 4, image="scan")
    worlds.parquet(root / "letters/data/test.parquet", [chr(65 + i) for i in range(26)], 30)
    worlds.parquet(root / "range/data/test.parquet", 26, 30)
    worlds.parquet(root / "empty/data/test.parquet", 10, 0)
    worlds.parquet(root / "order/data/test.parquet", [str(9 - i) for i in range(10)], 10)
    worlds.parquet(root / "torn/data/test.parquet", 10, 40)
    torn = root / "torn/data/test.parquet"
    torn.write_bytes(torn.read_bytes()[:2000])
    (root / "bare").mkdir()
    (root / "bare/README.md").write_text("# nothing")
    hub.faults = {"clip_dtd/resolve/" + COMMIT + "/model.safetensors": "drop"}
    hub.faults |= {"models/zoo/clip_eurosat/revision/main": "gated", "models/zoo/clip_gtsrb/revision/main": "503"}
    try:
        found = told(
            hub,
            tmp_path,
            """
from dataclasses import replace
clip = model()
tasks = clip.catalogue()
for name in ("DTD", "EuroSAT", "GTSRB"):
    told[name] = line(lambda: clip.finetuned([tasks[name]]))
told["missing"] = line(lambda: model(pretrained="openai/nobody").base())
mnist = tasks["MNIST"]
for kind in ("letters", "range", "empty", "order", "torn", "bare", "absent"):
    task = replace(mnist, source={"hub_dataset": f"bad/{kind}"})
    told[kind] = line(lambda: clip.split(replace(task, name=kind), "test"))
told["split"] = line(lambda: clip.split(replace(mnist, source={"hub_dataset": "bad/range"}), "train"))
told["url"] = model(pretrained="openai/tiny").family
""",
        )
    finally:
        hub.faults = {}
    expected = {
        "DTD": "model zoo/clip_dtd: .*broke off",
        "EuroSAT": "model zoo/clip_eurosat: gated",
        "GTSRB": "model zoo/clip_gtsrb: .*503",
        "missing": "model openai/nobody: .*no such repository",
        "letters": "data of letters .bad/letters, split test. has 26 classes .*the task has 10",
        "range": "bad/range.*labels go from 0 to 25.*tasks.range.data=DIR",
        "empty": "bad/empty.*no data",
        "order": "bad/order.*class 0 is '9'.*has that class at 9",
        "torn": "bad/torn.*damaged",
        "bare": "bad/bare.*not laid out",
        "absent": "bad/absent.*no such repository",
        "split": "bad/range.*no such split; it has: test",
    }
    for case, pattern in expected.items():
        line = found[case]
        assert line is not None, case
        assert "\n" not in line
        assert re.search(pattern, line), (case, line)
