"""Data sets of every layout that the tasks have, and those that don't fit: one line with the place and the remedy."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import worlds
from PIL import Image as Picture

from tsv_exp.data.examples import Examples
from tsv_exp.errors import UserError


def rows(task: str, folder: Path, split: str = "test", labels: str = "hub") -> Examples:
    return worlds.examples(worlds.catalogue(labels, **{task: str(folder)})[task], split)


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def table(file: Path, rows: int = 6, **columns: object) -> Path:
    """A parquet file with columns of these kinds: "image", a number type, a list of class names, or rows of bytes."""
    from datasets import ClassLabel, Dataset, Features, Image, Value, disable_progress_bars

    disable_progress_bars()
    features, content = {}, {}
    for name, kind in columns.items():
        if kind == "image":
            features[name] = Image()
            content[name] = [{"bytes": worlds.picture(i), "path": None} for i in range(rows)]
        elif isinstance(kind, bytes):
            features[name] = Image()
            content[name] = [{"bytes": kind, "path": None}] * rows
        elif isinstance(kind, list):
            features[name], content[name] = ClassLabel(names=kind), [i % len(kind) for i in range(rows)]
        else:
            features[name], content[name] = Value(kind), [i % 2 for i in range(rows)]
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(content, features=Features(features)).to_parquet(file)
    return file.parent


def labels(folder: Path, task: str) -> list[int]:
    found = rows(task, folder)
    assert found.picture(0).size == (36, 40)
    return found.labels.tolist()


LETTERS = [chr(ord("A") + i) for i in range(26)]


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("PCAM", {"image": "image", "label": "bool"}),
        ("FER2013", {"jpg": "image", "cls": "int64", "__key__": "string"}),
        ("FER2013", {"jpg": "image", "cls": "int64", "width": "int32"}),
        ("CIFAR100", {"img": "image", "coarse_label": LETTERS[:20], "fine_label": [str(i) for i in range(100)]}),
        ("OxfordIIITPet", {"image": "image", "label": [f"x{i}" for i in range(37)], "label_cat_dog": ["cat", "dog"]}),
        ("MNIST", {"image": "image", "label": "uint8"}),
    ],
)
def test_columns_are_found(tmp_path: Path, task: str, columns: dict[str, object]) -> None:
    folder = table(tmp_path / "data/test-0.parquet", **columns)
    assert sorted(set(labels(folder, task))) in ([0, 1], [0, 1, 2, 3, 4, 5])


def shard(file: Path, first: int, count: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for i in range(first, first + count):
            content = io.BytesIO()
            Picture.new("L", (48, 48), i).save(content, "jpeg")
            for name, part in ((f"s{i:07}.jpg", content.getvalue()), (f"s{i:07}.cls", str(i % 7).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(part)
                tar.addfile(entry, io.BytesIO(part))


def test_tars_as_webdataset_has_them(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(2):
            shard(tmp_path / f"data/{split}/{number}.tar", 5 * number, 5)
        (tmp_path / f"data/{split}/nshards.txt").write_text("2")
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        (tmp_path / "data" / name).write_text("angry\nhappy\n")
    found = rows("FER2013", tmp_path / "data")
    assert found.labels.tolist() == [i % 7 for i in range(10)]
    assert found.picture(9).size == (48, 48)


def test_the_split_that_stands_in_for_test(tmp_path: Path) -> None:
    folder = table(tmp_path / "data/validation-0.parquet", image="image", label="int64")
    assert set(labels(folder, "Food101")) == {0, 1}


REMEDY = r"tasks\.\w+\.data=DIR|<name>\.data=DIR|one folder per class"


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        (
            "MNIST",
            {"scan": "string", "label": "int64"},
            "expected one column of images among .scan: string, label: int",
        ),
        ("MNIST", {"left": "image", "right": "image", "label": "int64"}, "expected one column of images among .left"),
        ("MNIST", {"image": "image", "name": "string"}, "expected one column of labels among .image"),
        ("MNIST", {"image": "image", "age": "int64", "sex": "int64"}, "expected one column of labels among .image"),
        ("MNIST", {"image": "image", "label": LETTERS}, r"has 26 classes \(A, B …\), but the task has 10 \(0 …\)"),
        ("MNIST", {"image": "image", "label": [str(9 - i) for i in range(10)]}, "class 0 is '9'.*has that class at 9"),
        ("GTSRB", {"image": "image", "label": sorted(map(str, range(43)))}, "class 2 is '10'.*has that class at 10"),
    ],
)
def test_columns_and_classes_that_do_not_fit(
    tmp_path: Path, task: str, columns: dict[str, object], message: str
) -> None:
    folder = table(tmp_path / "data/test-0.parquet", **columns)
    with pytest.raises(UserError, match=rf"(?s)^data of {task} \(.*data, split test\).*{message}.*({REMEDY})"):
        rows(task, folder)


def test_the_letters_of_emnist_fit_the_hubs_checkpoints_only(tmp_path: Path) -> None:
    folder = table(tmp_path / "data/test-0.parquet", image="image", label=LETTERS)
    assert set(labels(folder, "EMNIST")) == {0, 1, 2, 3, 4, 5}
    with pytest.raises(UserError, match=r"has 26 classes \(A, B …\), but the task has 10 .*tasks\.EMNIST\.data=DIR"):
        rows("EMNIST", folder, labels="paper")


def test_labels_and_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    folder = table(tmp_path / "data/test-0.parquet", image="image", label="int64")
    with pytest.raises(UserError, match=r"labels go from 0 to 1, but the task's 1 classes are 0 to 0.*data=DIR"):
        worlds.examples(replace(worlds.catalogue("hub", PCAM=str(folder))["PCAM"], classes=("only",)), "test")
    folder = table(tmp_path / "torn/test-0.parquet", image=worlds.picture(0)[:-300], label="int64")
    torn = rows("MNIST", folder)
    with pytest.raises(UserError, match=r"data of MNIST .*torn.*: row 2 is not an image that can be decoded.*data=DIR"):
        torn.picture(2)
    folder = table(tmp_path / "missing/test-0.parquet", image=b"", label="int64")
    with pytest.raises(UserError, match="row 0 is not an image"):
        rows("MNIST", folder).picture(0)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    file = table(tmp_path / "torn/test-0.parquet", image="image", label="int64") / "test-0.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    folders = {"torn": "damaged", "bare": "not laid out as data", "empty": "the split is empty"}
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/README.md").write_text("# nothing")
    table(tmp_path / "empty/test-0.parquet", rows=0, image="image", label="int64")
    for name, message in folders.items():
        with pytest.raises(UserError, match=rf"^data of MNIST .*{name}.*({message}).*data=DIR"):
            rows("MNIST", tmp_path / name)
    with pytest.raises(UserError, match="there is no such split; it has: test"):
        rows("MNIST", tmp_path / "torn", "train")
