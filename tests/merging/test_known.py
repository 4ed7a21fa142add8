"""Merges that are made only when their weights are needed."""

from pathlib import Path

import pytest
import torch

from tsv_exp.api import merge
from tsv_exp.merging.engine import Merged
from tsv_exp.merging.known import Facts, KnownMerge
from tsv_exp.storage.digests import digest

KEY = "ab12"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TSV_EXP_CACHE", str(tmp_path))
    return tmp_path


def merged(method: str = "tsv_m") -> Merged:
    generator = torch.Generator().manual_seed(0)
    models = {
        task: {"matrix": torch.randn(6, 8, generator=generator), "bias": torch.randn(6, generator=generator)}
        for task in ("a", "b")
    }
    return merge({name: torch.zeros_like(weight) for name, weight in models["a"].items()}, models, method)


def never() -> Merged:
    raise AssertionError("merged, although nothing of the weights was asked for")


@pytest.mark.parametrize(("method", "tasks"), [("tsv_m", [None]), ("tsv_c", ["a", "b"])])
def test_what_is_remembered_needs_no_merge(method: str, tasks: list[str | None]) -> None:
    real = merged(method)
    first, again = KnownMerge(KEY, lambda: real), KnownMerge(KEY, never)
    for task in tasks:
        assert first.digest(task) == real.digest(task) == digest(real.vector(task))
    assert again.facts == first.facts == Facts.of(real)
    assert again.per_task is real.per_task
    assert [again.digest(task) for task in tasks] == [real.digest(task) for task in tasks]
    with pytest.raises(AssertionError, match="merged"):
        again.vector(tasks[0])


def test_facts_are_those_of_the_merge() -> None:
    real = merged("tsv_c")
    facts = Facts.of(real)
    assert facts.rank == {"matrix": 3}
    assert (facts.base_bytes, facts.stored_bytes) == (real.base_bytes, real.stored_bytes)
    assert facts.stored_bytes_without_base == real.stored_bytes_without_base


def test_another_key_and_no_key_know_nothing() -> None:
    KnownMerge(KEY, merged).digest()
    for key in ("cd34", None):
        with pytest.raises(AssertionError, match="merged"):
            _ = KnownMerge(key, never).facts


@pytest.mark.parametrize("content", ["", "[", "{}", "[{}, {}]", '[{"per_task": 1}, {}]', "[null, 3]", "7"])
def test_a_damaged_record_is_made_again(content: str, cache: Path) -> None:
    KnownMerge(KEY, merged).digest()
    (place,) = (cache / "merges").glob("*/*.json")
    whole = place.read_text()
    place.write_text(content)
    assert KnownMerge(KEY, merged).digest() == merged().digest()
    assert place.read_text() == whole


def test_a_read_only_cache_is_left_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert KnownMerge(KEY, merged).digest() == merged().digest()
    assert list(cache.iterdir()) == []
