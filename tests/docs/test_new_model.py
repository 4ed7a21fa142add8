"""docs/new_model.md, done as it stands there, from a folder outside the repository."""

import json
import os
import re
import shlex
from pathlib import Path

import forked
import pytest
import worlds
from encoders import network, saved, sentences
from safetensors.torch import save_file

PAGE = (Path(__file__).parents[2] / "docs" / "new_model.md").read_text(encoding="utf-8")
TASK = "data: {{path: {place}, input: text, label: label}}\nclasses: [good, bad, fine]\ntemplates: ['{{}} film']\n"


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of a language in one section of the page."""
    (section,) = re.findall(rf"^## {heading}.*?(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two tasks of texts in mine/conf/task."""
    folder = tmp_path / "mine" / "conf"
    for group in ("task", "model"):
        (folder / group).mkdir(parents=True)
    for number, name in enumerate(("mood", "topic")):
        data = sentences(tmp_path / "data" / name, 90, seed=number)
        (folder / "task" / f"{name}.yaml").write_text(TASK.format(place=data), encoding="utf-8")
    return tmp_path


def run(script: str, folder: Path, *more: str) -> None:
    """The lines of a shell script with the commands of the package."""
    environment = os.environ | {"TSV_EXP_CACHE": str(folder / "cache")}
    for line in script.strip().splitlines():
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            environment[name] = os.pathsep.join([str(folder / value), os.environ.get(name, "")])
            continue
        command, *words = shlex.split(line)
        if command == "tsv-finetune":
            words += more
        done = forked.command(command.removeprefix("tsv-"), *words, cwd=folder, env=environment)
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"


def results(folder: Path) -> dict[str, object]:
    (found,) = folder.glob("outputs/runs/**/results.json")
    return json.loads(found.read_text(encoding="utf-8"))


def test_a_clip_in_one_yaml(place: Path) -> None:
    save_file(worlds.whole(0), place / "base.safetensors")
    yaml = blocks("1", "yaml")[0].replace("timm/ViT-B-16-SigLIP", f"{place}/base.safetensors")
    plain = json.dumps(worlds.ARCHITECTURE).replace('"', "")
    (place / "mine/conf/model/my_clip.yaml").write_text(yaml.replace(" ViT-B-16-SigLIP ", f" {plain} "))
    for name in ("DTD", "EuroSAT"):
        for split in ("train", "test"):
            for number in range(2):  # classes by number
                (folder := place / name / split / str(number)).mkdir(parents=True)
                for i in range(6):
                    (folder / f"{i}.png").write_bytes(worlds.picture(i))
    lines = blocks("1", "bash")[0].splitlines()
    for line in lines[:2]:
        name = line.rpartition("=")[2]
        run(f"{line} task.data={place}/{name} epochs=1 finetune.batch_size=4", place)
    data = " ".join(f"tasks.{name}.data={place}/{name}" for name in ("DTD", "EuroSAT"))
    run(f"{lines[2]} {data} alpha=1", place)
    assert set(results(place)["test"]["accuracy"]) == {"DTD", "EuroSAT"}


def test_a_text_encoder_in_one_yaml(place: Path) -> None:
    base = saved(place / "base", network("bert"))
    yaml = blocks("2", "yaml")[0].replace("google-bert/bert-base-uncased", str(base))
    (place / "mine/conf/model/my_bert.yaml").write_text(yaml, encoding="utf-8")
    run(blocks("2", "bash")[0], place, "finetune.steps=40", "finetune.lr=3e-3", "finetune.precision=float32")
    found = results(place)
    assert found["tasks"] == ["mood", "topic"]
    assert found["finetuned"]["test"]["mood"] > 0.5  # chance is a third
    assert found["stored_bytes_without_base"] > 0


def test_checkpoints_with_classifiers_in_one_yaml(place: Path) -> None:
    yaml = blocks("2", "yaml")[1]
    base = saved(place / "base", network("bert", "SequenceClassification"))
    yaml = yaml.replace("google-bert/bert-base-uncased", str(base))
    for number, name in enumerate(("mood", "topic")):
        made = saved(place / name, network("bert", "SequenceClassification", seed=number))
        yaml = yaml.replace(f"someone/bert-{name}", str(made))
    (place / "mine/conf/model/my_classifiers.yaml").write_text(yaml, encoding="utf-8")
    run('tsv-exp --config-dir mine/conf model=my_classifiers "tasks=[mood,topic]" alpha=0.5', place)
    assert set(results(place)["test"]["accuracy"]) == {"mood", "topic"}


def test_another_encoder_in_one_file_and_one_yaml(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = re.findall(r"```python\n(.*?)```", PAGE.partition("\n## ")[0], re.DOTALL)[0]
    monkeypatch.chdir(place)
    exec(script, {})  # replaces the two tasks by those of the page
    (place / "mine/letters.py").write_text(blocks("3", "python")[0], encoding="utf-8")
    (place / "mine/conf/model/letters.yaml").write_text(blocks("3", "yaml")[0], encoding="utf-8")
    run(blocks("3", "bash")[0], place)
    found = results(place)
    assert found["finetuned"]["test"]["mood"] > 0.8
    assert list(place.glob("outputs/analyze/**/*.html"))
