"""docs/new_task.md, done as it stands there: own tasks from folders outside the repository."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import encoders
import forked
import pytest
import worlds
from safetensors.torch import save_file

PAGE = (Path(__file__).parents[2] / "docs" / "new_task.md").read_text(encoding="utf-8")
TINY = "model.finetune.steps=20 model.data.train=64 model.data.validation=16 model.data.test=16 alpha=0.5 seed=77"
COMMANDS = ("tsv-exp", "tsv-finetune", "tsv-analyze")


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of a language in one section of the page."""
    (section,) = re.findall(rf"^## {heading}.*?(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page writes."""
    folder = tmp_path_factory.mktemp("page")
    for group in ("task", "task_set"):
        (folder / "mine/conf" / group).mkdir(parents=True)
    for file, text in {
        "task/balls": blocks("1", "yaml")[0],
        "task/reviews": blocks("2", "yaml")[0],
        "task_set/my_set": blocks("3", "yaml")[0],
    }.items():
        (folder / "mine/conf" / f"{file}.yaml").write_text(text, encoding="utf-8")
    assert forked.run(blocks("1", "python")[0], cwd=folder, env=os.environ).returncode == 0
    return folder


def run(lines: str, folder: Path, *more: str) -> None:
    """Lines of a shell script with the commands of the package, made small; they leave what they wrote in `folder`."""
    environment = os.environ | {"TSV_EXP_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
    for line in lines.strip().splitlines():
        command, *words = shlex.split(line)
        assert command in COMMANDS
        typed = [*words, *(word for word in more if command != "tsv-analyze" or not word.startswith("alpha="))]
        done = forked.command(command.removeprefix("tsv-"), *typed, cwd=folder, env=environment)
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"


def results(folder: Path) -> list[dict[str, Any]]:
    found = sorted(folder.glob("outputs/**/results.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def test_images_from_a_folder(place: Path) -> None:
    single, sweep, analysis = blocks("1", "bash")[0].strip().splitlines()
    run(f"{single}\n{sweep}", place, *TINY.split())
    first, *others = results(place)
    assert first["tasks"] == ["balls", "digits"]
    assert first["finetuned"]["test"]["balls"] > 0.6  # chance is a third
    assert [entry["tasks"] for entry in others].count(["balls", "digits", "shapes"]) == 1
    assert {entry["status"] for entry in others} == {"ok"}
    (record,) = place.glob("cache/tiny/validation/balls-*.json")
    drawn = json.loads(record.read_text(encoding="utf-8"))
    assert (drawn["rows of train"], len(drawn["test"]), len(drawn["validation"])) == (120, 24, 9)
    run(analysis, place, *TINY.split())


def test_images_with_clip(place: Path, tmp_path: Path) -> None:
    save_file(worlds.whole(0), tmp_path / "base.safetensors")
    start = {name: weight for name, weight in worlds.whole(0).items() if name.startswith("vision_model.")}
    save_file(worlds.moved(start, 1), tmp_path / "Cars.safetensors")
    worlds.parquet(tmp_path / "cars/test-0.parquet", 196, 8)
    worlds.parquet(tmp_path / "cars/train-0.parquet", 196, 20)
    architecture = json.dumps(worlds.ARCHITECTURE).replace('"', "")
    toy = [f"model.architecture={architecture}", f"model.pretrained={tmp_path}/base.safetensors"]
    tune, merge = blocks("1", "bash")[1].strip().splitlines()
    run(tune, place, *toy, "finetune.batch_size=32", "finetune.precision=float32")
    known = [f"model.checkpoints={{Cars: {tmp_path}/Cars.safetensors}}", f"tasks.Cars.data={tmp_path}/cars"]
    run(merge, place, *toy, *known, "alpha=0.5", "evaluate.precision=float32")
    last = results(place)[-1]
    assert last["tasks"] == ["balls", "Cars"]
    assert set(last["test"]["accuracy"]) == {"balls", "Cars"}


def test_texts_from_a_csv_file(place: Path, tmp_path: Path) -> None:
    header, *examples = blocks("2", "text")[0].splitlines()
    assert len(examples) == 2
    rows = [f'"{mood} {encoders.WORDS[4 + i % 8]} {mood}",{mood}' for i in range(60) for mood in ("good", "bad")]
    (place / "reviews.csv").write_text("\n".join([header, *examples, *rows]), encoding="utf-8")
    base = encoders.saved(tmp_path / "base", encoders.network("bert"))
    tune, merge = blocks("2", "bash")[0].strip().splitlines()
    recipe = ["finetune.steps=40", "finetune.lr=3e-3", "finetune.precision=float32"]
    run(tune, place, f"model.pretrained={base}", *recipe)
    run(merge, place, f"model.pretrained={base}", "evaluate.precision=float32")
    last = results(place)[-1]
    assert last["tasks"] == ["reviews"]
    assert last["finetuned"]["test"]["reviews"] > 0.8


def test_a_set_of_tasks(place: Path) -> None:
    whole, prefixes = blocks("3", "bash")[0].strip().splitlines()
    run(whole, place, *TINY.split())
    assert results(place)[-1]["tasks"] == ["balls", "digits", "shapes", "colors"]
    run(prefixes, place, *TINY.split())
    assert [len(entry["tasks"]) for entry in results(place)[-2:]] == [2, 3]


def test_the_keys_of_the_page_are_those_of_the_code() -> None:
    from tsv_exp.data.tasks import KEYS as OF_DATA
    from tsv_exp.tasks.definitions import KEYS
    from tsv_exp.tasks.metrics import METRICS

    (section,) = re.findall(r"^## Keys of a task's YAML.*", PAGE, re.DOTALL | re.MULTILINE)
    assert tuple(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)) == KEYS
    assert all(f"`{name}`" in section for name in METRICS)
    assert all(re.search(rf"\b{key}\b", section) for key in OF_DATA)
