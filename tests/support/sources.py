"""Tasks of one's own, and the files that they name."""

from pathlib import Path
from typing import Any

from tsv_exp.data.examples import Examples, Kind
from tsv_exp.data.splits import Holdout, split_examples
from tsv_exp.data.tasks import source_of, task_of
from tsv_exp.tasks.definitions import complete
from tsv_exp.tasks.task import SplitName, Task


def task(data: Any, kind: Kind = "text", **keys: Any) -> Task:
    return task_of("mine", complete("mine", {"data": data, **keys}, {}), "any", ("{}",), kind)


def split(found: Task, name: SplitName, tmp_path: Path, kind: Kind = "text") -> Examples:
    return split_examples(found, source_of(found), name, kind, Holdout(), tmp_path / "record.json")


def texts(examples: Examples) -> list[Any]:
    return [examples.text(index) for index in range(len(examples))]


ROWS = [("good", "positive"), ("bad", "negative"), ("fine, really", "positive"), ("poor", "negative")]


def csv(file: Path, rows: list[tuple[str, ...]], header: str = "text,label") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(f'"{value}"' for value in row) for row in rows]
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return file
