"""Examples from tables and folders of one's own: images and texts, in the layouts that a task's YAML can name."""

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image as Picture
from rich.console import Console
from sources import ROWS, csv, split, task, texts

from tsv_exp.data.examples import Examples, Kind
from tsv_exp.data.tables import Tables
from tsv_exp.data.tasks import source_of
from tsv_exp.tasks.task import SplitName, Task


def pictures(folder: Path, classes: dict[str, int], count: int) -> None:
    for name, shade in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Picture.new("RGB", (9, 7), (shade, i, 0)).save(folder / name / f"{i}.png")


def test_a_file_for_each_split(tmp_path: Path) -> None:
    data = {"train": str(csv(tmp_path / "a.csv", ROWS)), "test": str(csv(tmp_path / "b.csv", ROWS[:3]))}
    found = task(data)
    assert found.classes == ("negative", "positive")
    test = split(found, "test", tmp_path)
    assert texts(test) == ["good", "bad", "fine, really"]
    assert test.labels.tolist() == [1, 0, 1]
    train, validation = split(found, "train", tmp_path), split(found, "validation", tmp_path)
    assert (len(train), len(validation)) == (3, 1)
    assert sorted(texts(train) + texts(validation)) == sorted(text for text, _ in ROWS)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["rows of train"] == 4
    assert len(record["validation"]) == 1
    given = task(data | {"validation": data["test"]})
    assert texts(split(given, "validation", tmp_path)) == texts(test)
    assert len(split(given, "train", tmp_path)) == 4


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("decided", [None, False])
def test_the_library_shows_its_bars_where_we_do_or_the_user_wants_them(
    terminal: bool, decided: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import datasets

    monkeypatch.setattr("tsv_exp.runtime.console.console", Console(file=io.StringIO(), force_terminal=terminal))
    monkeypatch.setattr("datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS", decided)
    datasets.enable_progress_bars()
    try:
        split(task({"train": str(csv(tmp_path / "a.csv", ROWS))}, classes=["negative", "positive"]), "train", tmp_path)
    finally:
        datasets.disable_progress_bars()
    assert ("Generating train split" in capsys.readouterr().err) == (terminal or decided is False)


def test_jsonl_with_columns_that_the_yaml_names(tmp_path: Path) -> None:
    rows = [{"premise": f"p{i}", "hypothesis": f"h{i}", "kind": i % 3, "id": i} for i in range(6)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))
    data = {"path": str(tmp_path), "input": ["premise", "hypothesis"], "label": "kind"}
    found = task(data, classes=["yes", "maybe", "no"])
    test = split(found, "test", tmp_path)
    assert texts(test) == [("p0", "h0"), ("p1", "h1")]
    assert test.labels.tolist() == [0, 1]
    assert task(data).classes == ("0", "1", "2")


def test_one_file_is_divided_into_all_splits(tmp_path: Path) -> None:
    file = csv(tmp_path / "all.csv", [(f"text {i}", "ab"[i % 2]) for i in range(50)])
    found = task(str(file))
    parts = {name: texts(split(found, name, tmp_path)) for name in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert {name: len(part) for name, part in parts.items()} == {"train": 36, "validation": 4, "test": 10}
    assert sorted(parts["train"] + parts["validation"] + parts["test"]) == sorted(f"text {i}" for i in range(50))
    again = texts(split(found, "test", tmp_path))
    assert again == parts["test"]


def test_class_folders_without_splits(tmp_path: Path) -> None:
    pictures(tmp_path / "shades", {"dark": 10, "light": 200}, 10)
    found = task(str(tmp_path / "shades"), "image")
    assert found.classes == ("dark", "light")
    parts = {name: split(found, name, tmp_path, "image") for name in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert [len(part) for part in parts.values()] == [15, 1, 4]
    seen = [part.picture(i).getpixel((0, 0)) for part in parts.values() for i in range(len(part))]
    assert sorted(seen) == sorted((shade, i, 0) for shade in (10, 200) for i in range(10))
    for part in parts.values():
        shades = [part.picture(i).getpixel((0, 0))[0] for i in range(len(part))]  # type: ignore[index]
        assert shades == [(10, 200)[label] for label in part.labels]


def test_class_folders_with_all_splits(tmp_path: Path) -> None:
    for name, count in (("train", 6), ("validation", 2), ("test", 3)):
        pictures(tmp_path / "shades" / name, {"10": 10, "9": 9}, count)
    found = task(str(tmp_path / "shades"), "image")
    assert found.classes == ("9", "10")
    assert [len(split(found, name, tmp_path, "image")) for name in ("train", "validation", "test")] == [12, 4, 6]  # type: ignore[arg-type]
    without = task({"path": str(tmp_path / "shades"), "validation": None}, "image")
    assert [len(split(without, name, tmp_path, "image")) for name in ("train", "validation")] == [11, 1]  # type: ignore[arg-type]


def test_folders_of_text_files(tmp_path: Path) -> None:
    for name in ("neg", "pos"):
        for part in ("train", "test"):
            (tmp_path / "reviews" / part / name).mkdir(parents=True)
            (tmp_path / "reviews" / part / name / "0.txt").write_text(f"{part} {name}")
    assert texts(split(task(str(tmp_path / "reviews")), "test", tmp_path)) == ["test neg", "test pos"]


def test_a_table_with_paths_of_pictures(tmp_path: Path) -> None:
    pictures(tmp_path / "files", {"x": 3}, 2)
    csv(tmp_path / "train.csv", [("files/x/0.png", "a"), ("files/x/1.png", "b")], "file,label")
    found = task({"path": str(tmp_path / "train.csv"), "input": "file"}, "image")
    train = source_of(found).examples(found, "train", "image")
    assert [train.picture(i).getpixel((0, 0)) for i in range(2)] == [(3, 0, 0), (3, 1, 0)]


def test_values_as_labels(tmp_path: Path) -> None:
    file = csv(tmp_path / "sts.csv", [("a", "b", "4.5"), ("c", "d", "0.5")], "one,two,score")
    found = task({"train": str(file), "test": str(file), "input": ["one", "two"], "label": "score"}, metric="spearman")
    assert found.classes == ()
    test = split(found, "test", tmp_path)
    assert test.labels.dtype is torch.float32
    assert test.labels.tolist() == [4.5, 0.5]


def test_the_identity_follows_files_and_columns(tmp_path: Path) -> None:
    file = csv(tmp_path / "all.csv", ROWS)
    first = source_of(task(str(file))).identity()
    assert source_of(task(str(file))).identity() == first
    assert source_of(task({"path": str(file), "input": "text"})).identity() != first
    csv(file, [*ROWS, ("new", "positive")])
    assert source_of(task(str(file))).identity() != first


def test_the_identity_follows_the_names_of_splits(tmp_path: Path) -> None:
    for name in ("train", "test", "dev"):
        pictures(tmp_path / "shades" / name, {"a": 10, "b": 9}, 2)
        csv(tmp_path / "texts" / f"{name}.csv", ROWS)
    keys: list[dict[str, str | None]] = [{}, {"test": "dev"}, {"validation": "dev"}, {"test": None}]
    for folder, kind in (("shades", "image"), ("texts", "text")):
        path = str(tmp_path / folder)
        found = [source_of(task({"path": path, **given}, kind)).identity() for given in keys]
        assert len(set(found)) == len(keys), kind
    file = str(tmp_path / "texts" / "dev.csv")
    found = [Tables("x", place, {"test": file}).identity() for place in (None, tmp_path / "texts", "a/b")]
    assert len(set(found)) == 3
    hub: list[dict[str, str | None]] = [{}, {"validation": None}, {"validation": "dev"}, {"test": None}]
    found = [Tables("x", "a/b", {"test": "test", **given}).identity() for given in hub]
    assert len(set(found)) == len(hub)


class Own:
    """A source in Python."""

    templates = ("about {}",)

    def __init__(self, size: int) -> None:
        self.size = size

    def class_names(self, kind: Kind) -> list[str]:
        return ["even", "odd"]

    def has(self, split: SplitName) -> bool:
        return split != "validation"

    def examples(self, task: Task, split: SplitName, kind: Kind) -> Examples:
        return Examples("own", torch.arange(self.size) % len(task.classes), str)

    def identity(self) -> str:
        return f"own {self.size}"


def test_a_source_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    module = type(sys)("own_source")
    module.Own = Own  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_source", module)
    found = task({"_target_": "own_source.Own", "size": 20})
    assert (found.classes, found.templates) == (("even", "odd"), ("about {}",))
    assert [len(split(found, name, tmp_path)) for name in ("train", "validation", "test")] == [18, 2, 20]  # type: ignore[arg-type]
    train = split(found, "train", tmp_path)
    assert [int(text) % 2 for text in texts(train)] == train.labels.tolist()
