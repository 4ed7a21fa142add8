"""What runs share: loaded once, and again where anything that it depends on differs."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tsv_exp.evaluation import inputs as loaded
from tsv_exp.evaluation.inputs import load_inputs

CONFIG = {
    "seed": 0,
    "model": {"_target_": "linear.Linear"},
    "tasks": ["a", "b"],
    "task": {},
    "device": "cpu",
    "evaluate": {"precision": "float32", "batch_size": 8},
    "method": {"name": "one"},
}


@pytest.fixture(autouse=True)
def _nothing_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    loaded._load.cache_clear()
    loaded._model.cache_clear()
    monkeypatch.setattr(loaded, "selected", lambda plain: [(name, {}) for name in plain["tasks"]])


def test_runs_of_other_methods_share_everything() -> None:
    first = load_inputs(OmegaConf.create(CONFIG))
    second = load_inputs(OmegaConf.create(CONFIG | {"method": {"name": "two"}, "seed": 1}))
    assert second.evaluator is first.evaluator
    assert first.reference("validation") is second.reference("validation")
    assert set(first.digests) == {"base", "a", "b"}
    assert set(first.finetuned) == set(first.reference("test")) == {"a", "b"}


@pytest.mark.parametrize(
    "change", [{"tasks": ["a"]}, {"tasks": ["b"]}, {"evaluate": {"precision": "float32", "batch_size": 4}}]
)
def test_runs_on_other_tasks_share_the_model(change: dict[str, object]) -> None:
    first, second = load_inputs(OmegaConf.create(CONFIG)), load_inputs(OmegaConf.create(CONFIG | change))
    assert second.evaluator is not first.evaluator
    assert second.model is first.model


def test_another_cache_has_other_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_inputs(OmegaConf.create(CONFIG))
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path / "other"))
    assert load_inputs(OmegaConf.create(CONFIG)).evaluator is not first.evaluator
