"""tsv-exp on bad checkpoints and data: exit code, one line, nothing half-written is left, nothing is lost."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import worlds
from fresh import command, served, told
from hub import Hub
from safetensors.torch import save_file

BODY = """
import torch
import tsv_exp.run
import tsv_exp.models.export
from huggingface_hub import file_download
from tsv_exp.models import images

def full(*_, **__):
    raise OSError(28, "No space left on device")

def outcome(name, overrides):
    told[name] = run(*overrides)

def crowded(name, overrides, owner, attribute):
    kept = getattr(owner, attribute)
    setattr(owner, attribute, full)
    outcome(name, overrides)
    setattr(owner, attribute, kept)

outcome("good", {good!r})
for name, overrides in {bad!r}.items():
    outcome(name, overrides)
crowded("full: model", {model!r}, file_download, "http_get")
crowded("full: images", {images!r}, images.Pictures, "__getitem__")
crowded("full: merged", {merged!r}, tsv_exp.models.export, "save")

def crowd(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

tsv_exp.run.merge = crowd
outcome("memory", {memory!r})
"""
ARCHITECTURE = "of another architecture: choose the model= that it belongs to, or give another checkpoint"
SAID = {
    "deeper": rf"checkpoint of EuroSAT \(.*deeper\.safetensors\): lacks .*{ARCHITECTURE}",
    "wider": rf"checkpoint of EuroSAT \(.*wider\.safetensors\): .* has shape \(8, 8\) and .*{ARCHITECTURE}",
    "foreign": r"foreign\.safetensors\): expected the image encoder of a CLIP.* layer\.weight: give another checkpoint",
    "nan": r"nan\.safetensors.*NaN or infinite",
    "inf": r"inf\.safetensors.*NaN or infinite",
    "truncated": r"truncated\.safetensors: truncated or damaged .*; remove it, then download or copy it again",
    "code": r"code\.pt: holds more than tensors .*; save the model's state_dict\(\) and give that",
    "columns": r"data of EuroSAT \(.*columns, split test\): expected one column of labels .*tasks\.<name>\.data=DIR",
    "classes": r"data of EuroSAT \(.*classes, split test\) has 7 classes .* task has 10 .*tasks\.EuroSAT\.data=DIR",
    "empty": r"data of EuroSAT \(.*empty, split test\): the split is empty; .*data=DIR",
    "undecodable": r"data of EuroSAT \(.*undecodable.*\): row 0 is not an image that can be decoded .*data=DIR",
    "missing": r"model zoo/clip_dtd: .* has no such repository.*check the name, log in, or give a local copy",
    "gated": r"model zoo/clip_mnist: gated: accept its terms",
    "gone": r"data of GTSRB \(.*, split test\): .* has no such repository.*give a local copy",
    "full: model": r"model zoo/clip_svhn: the disk is full; free space or set HF_HOME to another disk",
    "full: images": r"cannot write .*SVHN-test-.*\.images: No space left on device; free space or choose another",
    "full: merged": r"cannot write .*merged\.safetensors: No space left on device; free space or choose another folder",
    "memory": "CUDA out of memory; choose a device= with more memory, or device=cpu",
}


class Code:
    """A pickle that would leave a file behind."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


def checkpoints(folder: Path) -> dict[str, Path]:
    """Checkpoints of EuroSAT that cannot be used."""
    tuned = worlds.moved(worlds.vision(0), 3)
    name = "vision_model.encoder.layers.1.mlp.fc1.weight"

    def changed(value: float) -> worlds.Weights:
        weight = tuned[name].clone()
        weight[3, 5] = value
        return tuned | {name: weight}

    kinds = {
        "deeper": tuned | {name.replace("layers.1", "layers.2"): tuned[name].clone()},
        "wider": tuned | {name: torch.zeros(8, 8)},
        "nan": changed(float("nan")),
        "inf": changed(float("inf")),
        "foreign": {"layer.weight": torch.ones(2, 2)},
        "truncated": tuned,
    }
    files = {kind: folder / f"{kind}.safetensors" for kind in kinds}
    for kind, weights in kinds.items():
        save_file(weights, files[kind])
    files["truncated"].write_bytes(files["truncated"].read_bytes()[:-1000])
    files["code"] = folder / "code.pt"
    torch.save({"weight": Code(folder / "ran")}, files["code"])
    return files


def unlabelled(file: Path) -> None:
    """A parquet file with images and their names."""
    from datasets import Dataset, Features, Image, Value

    file.parent.mkdir()
    content = {"image": [{"bytes": worlds.picture(i), "path": None} for i in range(3)], "name": ["a", "b", "c"]}
    Dataset.from_dict(content, features=Features({"image": Image(), "name": Value("string")})).to_parquet(file)


def data(folder: Path) -> dict[str, Path]:
    """Data of EuroSAT that cannot be used."""
    places = {kind: folder / kind for kind in ("columns", "classes", "empty", "undecodable")}
    names = list(worlds.first(3)[2].classes)
    unlabelled(places["columns"] / "test-0.parquet")
    worlds.parquet(places["classes"] / "test-0.parquet", names[:7], 4)
    worlds.parquet(places["empty"] / "test-0.parquet", names, 0)
    (places["undecodable"] / "test/3").mkdir(parents=True)
    (places["undecodable"] / "test/3/torn.png").write_bytes(worlds.picture(0)[:200])
    return places


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    tasks = {task.name: task for task in worlds.first(8)}
    with_models = [tasks[name] for name in ("EuroSAT", "MNIST", "SVHN", "GTSRB")]
    with_data = [tasks[name] for name in ("EuroSAT", "SVHN")]
    with served(tmp_path_factory.mktemp("hub"), with_models, with_data, train=4, test=4) as server:
        server.faults = {"models/zoo/clip_mnist/revision/main": "gated"}
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def found(hub: Hub, home: Path) -> dict[str, Any]:
    """Case -> exit code of its run; results lie in home/outputs/<case>."""

    def typed(name: str, task: str, *overrides: str) -> list[str]:
        fixed = ["method=weight_average", "alpha=fixed", "alpha.value=1", f"tasks=[{task}]"]
        return command(home, *fixed, f"hydra.run.dir='{home}/outputs/{name}'", *overrides)

    (home / "bad").mkdir()
    files, places = checkpoints(home / "bad"), data(home / "bad")
    cases = {
        "good": typed("good", "EuroSAT"),
        "bad": {kind: typed(kind, "EuroSAT", f"model.checkpoints={{EuroSAT: {files[kind]}}}") for kind in files}
        | {kind: typed(kind, "EuroSAT", f"tasks.EuroSAT.data={places[kind]}") for kind in places}
        | {"missing": typed("missing", "DTD"), "gated": typed("gated", "MNIST"), "gone": typed("gone", "GTSRB")},
        "model": typed("full: model", "SVHN"),
        "images": typed("full: images", "SVHN"),
        "merged": typed("full: merged", "EuroSAT", "save_merged=true"),
        "memory": typed("memory", "EuroSAT", "alpha.value=2"),  # not scored before, so that it has to merge
    }
    return told(hub, home, BODY.format(**cases)) | {"requests": list(hub.requests)}


@pytest.mark.parametrize("case", SAID)
def test_one_line_names_the_place_and_the_remedy(found: dict[str, Any], home: Path, case: str) -> None:
    assert found[case] == 1
    results = json.loads((home / "outputs" / case / "results.json").read_text(encoding="utf-8"))
    assert results["status"] == "failed"
    assert "\n" not in results["error"]
    assert re.search(SAID[case], results["error"]), results["error"]
    assert results["error"] in found["stderr"]


def test_nothing_half_written_is_left_and_nothing_is_lost(found: dict[str, Any], home: Path) -> None:
    assert found["good"] == 0
    assert "Traceback" not in found["stderr"]
    assert not (home / "bad" / "ran").exists()
    left = [path for folder in ("cache", "outputs") for path in (home / folder).rglob("*") if path.is_file()]
    assert len(left) > 2 * len(SAID)
    assert not [path for path in left if path.name.startswith(".")]
    images = {path.name.partition("-")[0] for path in left if path.suffix == ".images"}
    assert images == {"EuroSAT"}
    assert not [path for path in left if path.name.startswith("merged")]
    # what was there already was not fetched again by any of the runs that failed
    fetched = Counter(request for request in found["requests"] if request.startswith("GET") and "/resolve/" in request)
    assert set(fetched.values()) == {1}
