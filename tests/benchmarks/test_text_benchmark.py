"""The splits of the text benchmark's builder, on small invented texts."""

import pytest
from text_benchmark.packages import Package, Packages
from text_benchmark.recipe import Example, Recipe, sentences, shorten
from text_benchmark.splits import SIZES, distinct, split, without_near

CLASSES = {"even": "an even number", "odd": "an odd number"}


def recipe() -> Recipe:
    return Recipe("numbers", "Which?", CLASSES, ("{}",), (), "none", "nobody", lambda _: [])


def numbers(count: int) -> list[Example]:
    return [
        Example(hex(n * 2654435761 % 2**32), ("even", "odd")[n // 20 % 2], f"score {n // 20}") for n in range(count)
    ]


def test_repeated_texts_are_kept_once_and_contradictory_ones_not_at_all() -> None:
    rows = [Example(" An  Owl", "odd"), Example("an owl!", "odd"), Example("Bee", "odd"), Example("bee", "even")]
    assert distinct([*rows, Example("cat", "other")], CLASSES) == [Example("An Owl", "odd")]


def test_a_split_is_balanced_keeps_groups_apart_and_is_the_same_every_time() -> None:
    parts = split(recipe(), numbers(9000))
    assert {name: len(rows) for name, rows in parts.items()} == SIZES
    assert sum(row.label == "even" for row in parts["test"]) == SIZES["test"] / 2
    groups = [{row.group for row in rows} for rows in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert split(recipe(), reversed(numbers(9000))) == parts


def test_near_duplicates_of_other_texts_are_left_out() -> None:
    rows = [Example("binding to a receptor of type 1", "odd"), Example("the union of two gametes", "odd")]
    assert without_near(rows, [Example("Binding to a receptor of type 2", "odd")]) == rows[1:]


def test_texts_are_cut_between_words_and_sentences() -> None:
    assert shorten("one two,  three", 9) == "one two"
    assert sentences("It is 3.5 m long. Is it? Yes") == ["It is 3.5 m long.", "Is it?", "Yes"]


def test_a_missing_or_changed_package_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("text_benchmark.packages.PACKAGES", {"p": Package("npm", "1", "p-1.tgz", "0" * 64)})
    with pytest.raises(SystemExit, match=r"p-1\.tgz is not in"):
        Packages(tmp_path).read("p", "a")
    (tmp_path / "p-1.tgz").write_bytes(b"changed")
    with pytest.raises(SystemExit, match="its SHA-256 is"):
        Packages(tmp_path).read("p", "a")
