"""What makes two runs the same cell, and what does not."""

import json
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tsv_exp import versions
from tsv_exp.config import conf_dir
from tsv_exp.storage import named
from tsv_exp.sweeps import resume


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def key(*overrides: str) -> str:
    """The key as a new process computes it."""
    for known in (named.files_digest, named._module, versions.program):
        known.cache_clear()
    return resume.cell_key(composed(*overrides))


def finished(folder: Path, **content: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"status": "ok"} | content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("same", ["paths.outputs=x", "paths.cache=x", "tracking=wandb", "resume=false", "seed=0"])
def test_what_makes_no_other_cell(same: str) -> None:
    assert key(same) == key()


@pytest.mark.parametrize(
    "other", ["seed=1", "method=ties", "tasks=9", "alpha=fixed", "model.data.seed=1", "device=cpu"]
)
def test_what_makes_another_cell(other: str) -> None:
    assert key(other) != key()


def test_changed_weights_are_another_cell(tmp_path: Path) -> None:
    weights = tmp_path / "weights" / "Cars.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"1")
    arguments = "model=vit_b_32", f"model.checkpoints={weights.parent}"
    first = key(*arguments)
    assert key(*arguments) == first
    weights.write_bytes(b"22")
    assert key(*arguments) != first


def test_another_commit_of_the_hub_is_another_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def fetched(repository: str, commit: str) -> None:
        reference = tmp_path / "hub" / f"models--{repository}" / "refs" / "main"
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit, encoding="utf-8")

    used = "openai--clip-vit-base-patch32", "tanganke--clip-vit-base-patch32_dtd"
    for repository in used:
        fetched(repository, "abc")
    fetched("someone--else", "abc")
    cfg, first = composed("model=vit_b_32"), key("model=vit_b_32")
    assert resume.commits(cfg) == {f"models--{repository}/refs/main": "abc" for repository in used}
    resume.remember(first, tmp_path, finished(tmp_path / "run", cell=first, commits=resume.commits(cfg)))
    fetched("someone--else", "def")
    fetched("tanganke--clip-vit-base-patch32_stl10", "abc")  # for another task, later
    assert key("model=vit_b_32") == first
    assert resume.find(first, tmp_path)
    for repository in used:
        fetched(repository, "def")
        assert resume.find(first, tmp_path) is None
        fetched(repository, "abc")
        assert resume.find(first, tmp_path)


def test_a_changed_function_is_another_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "one_of_mine.py"
    source.write_text("def half(deltas): return deltas.sum(0) / 2", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    first = key("method._target_=one_of_mine.half")
    step = key("+method.before=[{one_of_mine.half: {}}]")
    source.write_text("def half(deltas): return deltas.sum(0) / 2.0", encoding="utf-8")
    assert key("method._target_=one_of_mine.half") != first
    assert key("+method.before=[{one_of_mine.half: {}}]") != step


def test_inputs_are_part_of_the_key_where_there_are_any() -> None:
    assert len({key(), key("inputs=noise"), key("inputs=validation"), key("inputs=noise", "inputs.examples=3")}) == 4


def test_a_raised_version_constant_is_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    first = key()
    monkeypatch.setitem(versions.ALL, "METHODS", versions.METHODS + 1)
    assert key() != first


def test_a_finished_run_is_found_also_where_the_outputs_moved(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    folder = finished(outputs / "sweeps" / "0", cell="k", alpha=1)
    assert resume.find("k", outputs) is None
    resume.remember("k", outputs, folder)
    assert resume.find("k", outputs) == (folder, {"status": "ok", "cell": "k", "alpha": 1})
    moved = outputs.rename(tmp_path / "moved")
    assert resume.find("k", moved) == (moved / "sweeps" / "0", {"status": "ok", "cell": "k", "alpha": 1})


@pytest.mark.parametrize("text", ['{"status": "failed", "cell": "k"}', '{"status": "ok", "cell": "other"}', "{", "[]"])
def test_what_is_not_a_finished_run_of_the_cell_is_run_again(tmp_path: Path, text: str) -> None:
    folder = finished(tmp_path / "run", cell="k")
    resume.remember("k", tmp_path, folder)
    (folder / "results.json").write_text(text, encoding="utf-8")
    assert resume.find("k", tmp_path) is None
    shutil.rmtree(folder)
    assert resume.find("k", tmp_path) is None


def test_changed_data_of_a_task_are_another_cell(tmp_path: Path) -> None:
    (tmp_path / "data/red").mkdir(parents=True)
    file = tmp_path / "data/red/0.png"
    file.write_bytes(b"one")
    typed = ["tasks=[digits]", f"++task.digits.data={tmp_path}/data"]
    first = key(*typed)
    assert key(*typed) == first
    assert key("tasks=[digits]", "++task.greek.data=x") == key("tasks=[digits]")  # of another task
    file.write_bytes(b"another")
    second = key(*typed)
    assert second != first
    assert key(*typed, "++task.digits.classes=[red]") != second
