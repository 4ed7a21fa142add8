"""Checkpoints that a model of text trains itself, on packaged tasks and a base that an installed package carries."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from encoders import network, saved, tokenizer

from tsv_exp.checkpoints.readers import file_digest
from tsv_exp.checkpoints.sources import locate
from tsv_exp.data.tasks import task_of
from tsv_exp.errors import UserError
from tsv_exp.finetuning.training import Recipe
from tsv_exp.models import local_training
from tsv_exp.models.text.benchmark import tasks
from tsv_exp.models.text.benchmark.source import Packaged
from tsv_exp.models.text.model import TextEncoder
from tsv_exp.tasks.task import Task

RECIPE = Recipe(lr=1e-3, steps=3, batch_size=8, precision="float32")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose code would fail and which carries a small BERT."""
    folder = tmp_path / "site" / "carries_weights"
    base = saved(folder / "model", network("bert"))
    tokenizer(base, "token_type_ids")
    (folder / "__init__.py").write_text("raise SystemExit('its code must not run')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return base


def model(**changes: object) -> TextEncoder:
    settings: dict[str, object] = {"length": 8, "device": "cpu", "finetune": RECIPE, "validation": 30}
    return TextEncoder("toy", "pkg://carries_weights/model", None, **settings | changes)  # type: ignore[arg-type]


def packaged(*names: str) -> list[Task]:
    source = "tsv_exp.models.text.benchmark.source.Packaged"
    return [task_of(name, {"data": {"_target_": source, "subject": name}}, "toy", (), "text") for name in names]


def test_tasks_are_those_of_the_package() -> None:
    (cities,) = packaged("cities")
    assert cities.classes == tuple(tasks()["cities"]["classes"])
    assert cities.templates == ("a town in {}", "{}")
    source = Packaged("cities")
    assert len(source.examples(cities, "test", "text")) == 600
    assert isinstance(source.examples(cities, "train", "text").text(0), str)
    with pytest.raises(UserError, match="encodes images"):
        source.examples(cities, "train", "image")
    with pytest.raises(UserError, match=r"data\.subject=towns: no packaged task"):
        Packaged("towns")


def test_weights_come_from_a_package_whose_code_is_not_run(package: Path) -> None:
    assert locate("pkg://carries_weights/model") == package
    assert "carries_weights" not in sys.modules
    with pytest.raises(UserError, match="no installed package 'carries_weights' has it"):
        locate("pkg://carries_weights/nothing")
    with pytest.raises(UserError, match="install the package"):
        locate("pkg://no_such_package/model")


def test_the_digest_of_the_base_is_compared(package: Path) -> None:
    model(sha256=file_digest(package / "model.safetensors")).base()
    with pytest.raises(UserError, match=r"model\.safetensors: SHA-256 is .*model\.sha256=53aa"):
        model(sha256="53aa").base()


def test_trained_once_and_the_same_by_any_number_of_threads(package: Path, cache: Path) -> None:
    chosen = packaged("cities", "jobs")
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(model().finetuned(chosen))
            shutil.rmtree(cache / "text" / "finetuned")
    finally:
        torch.set_num_threads(threads)
    first, second = found
    assert list(first) == ["cities", "jobs"]
    for name, weights in first.items():
        assert weights.keys() == model().base().keys()
        assert all(torch.equal(weight, second[name][key]) for key, weight in weights.items())
        assert any(not torch.equal(weight, model().base()[key]) for key, weight in weights.items())


def test_known_checkpoints_are_read_and_other_settings_are_others(
    package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = packaged("cities")
    first = model().finetuned(chosen)["cities"]
    assert not list((cache / "text" / "finetuned").rglob("*.training"))
    other = model(seed=1).finetuned(chosen)["cities"]
    assert any(not torch.equal(weight, other[key]) for key, weight in first.items())
    monkeypatch.setattr(local_training, "finetune", None)  # nothing is trained any more
    again = model(validation=20).finetuned(chosen)["cities"]  # they do not depend on what is validated
    assert all(torch.equal(weight, again[key]) for key, weight in first.items())


def test_an_interruption_stops_the_other_trainings_too(
    package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = local_training.finetune

    def interrupted(encoder, loss, prepare, split, recipe, seed, identity, advance, *rest):  # type: ignore[no-untyped-def]
        if len(split) == 4000 and loss.keywords["task"].name == "cities":
            raise KeyboardInterrupt
        real(encoder, loss, prepare, split, recipe, seed, identity, advance, *rest)

    monkeypatch.setattr(local_training, "finetune", interrupted)
    endless = Recipe(lr=1e-3, steps=10**6, batch_size=8, precision="float32")
    with pytest.raises(KeyboardInterrupt):
        model(finetune=endless).finetuned(packaged("cities", "jobs"))


def test_trained_heads_need_checkpoints(package: Path) -> None:
    with pytest.raises(UserError, match=r"model\.checkpoints=null trains for frozen heads only"):
        model(head="classifier")
