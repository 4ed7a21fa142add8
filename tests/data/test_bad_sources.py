"""Tables and folders that do not fit: one line with the reason."""

from pathlib import Path

import pytest
from sources import ROWS, csv, split, task, texts

from tsv_exp.data.tasks import source_of
from tsv_exp.errors import UserError
from tsv_exp.tasks.task import Task


def bad(tmp_path: Path, case: str) -> Task:
    """A task with something wrong."""
    rows = csv(tmp_path / "rows.csv", ROWS)
    match case:
        case "no file":
            return task({"train": str(tmp_path / "absent.csv")}, classes=["a"])
        case "no folder":
            return task(str(tmp_path / "absent"), classes=["a"])
        case "no data":
            return task({"input": "text"}, classes=["a"])
        case "a key":
            return task({"path": str(rows), "inputs": "text"})
        case "a column":
            return task({"path": str(rows), "input": "body"})
        case "a label column":
            return task({"path": str(rows), "label": "class"})
        case "two columns":
            return task(str(csv(tmp_path / "two.csv", [("a", "b", "c")], "one,two,label")))
        case "an unknown class":
            return task(str(rows), classes=["positive", "neutral"])
        case "too many classes":
            return task(str(csv(tmp_path / "n.csv", [("a", "7")], "text,label")), classes=["x", "y"])
        case "an empty text":
            return task(str(csv(tmp_path / "e.csv", [("a", "x"), ("", "y")])))
        case "no rows":
            return task(str(csv(tmp_path / "no.csv", [])), classes=["a"])
        case "a foreign file":
            (tmp_path / "data.xyz").write_text("?")
            return task(str(tmp_path / "data.xyz"), classes=["a"])
        case "images":
            return task(str(rows), "image")
        case _:
            return task(str(csv(tmp_path / "f.csv", [("a", "0.5"), ("b", "1.5")])))


def read(tmp_path: Path, case: str) -> None:
    """Read all of a task with something wrong."""
    found = bad(tmp_path, case)
    examples = source_of(found).examples(found, "train", "image" if case == "images" else "text")
    texts(examples)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no file", r"data of mine \(.*absent\.csv\): no such file"),
        ("no folder", r"tasks\.mine\.data=.*absent: no such folder"),
        ("no data", "task mine: data needs hub: OWNER/NAME, path: FOLDER, or a file for each split"),
        ("a key", "task mine: unknown key data.inputs; data has: hub, path, "),
        ("a column", r"there is no column 'body' among \(text: \w*string, label: \w*string\); correct the task's YAML"),
        ("a label column", "there is no column 'class' among"),
        ("two columns", r"expected one column of texts among \(one: .*name it in the task's YAML"),
        ("an unknown class", r"the label 'negative' of row 1 is not one of the task's classes \(positive, neutral …\)"),
        ("too many classes", "labels go from 7 to 7, but the task's 2 classes are 0 to 1"),
        ("an empty text", "row 1 has no text; remove the row"),
        ("no rows", "the split is empty"),
        ("a foreign file", r"tasks\.mine\.data=.*data\.xyz: not a table that can be read"),
        ("images", r"expected one column of images among \(text"),
        ("values", r"the labels in 'label' are float64, not classes; for values choose a metric of pearson, spearman"),
    ],
)
def test_what_does_not_fit_is_one_line(case: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, case)


def test_a_task_with_neither_classes_nor_names(tmp_path: Path) -> None:
    (tmp_path / "folder/train").mkdir(parents=True)
    with pytest.raises(UserError, match="mine"):
        task(str(tmp_path / "folder"), "image")


def test_too_few_examples_to_draw_from(tmp_path: Path) -> None:
    found = task(str(csv(tmp_path / "one.csv", ROWS[:1])), classes=["positive"])
    with pytest.raises(UserError, match="too few to draw"):
        split(found, "train", tmp_path)
