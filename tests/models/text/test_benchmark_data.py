"""What must be true of the packaged text benchmark."""

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tsv_exp.models.text.benchmark import DATA, load, tasks

SPLITS = ("train", "validation", "test")
NAMES = list(tasks())


def normalized(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def test_there_are_enough_tasks_and_their_files_are_small() -> None:
    assert len(NAMES) >= 14
    assert {path.name for path in DATA.iterdir()} == {"tasks.json", *(f"{name}.json.gz" for name in NAMES)}
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 8e6


def test_tasks_share_no_texts() -> None:
    owners = Counter(text for name in NAMES for text in {normalized(t) for s in SPLITS for t in load(name, s).texts})
    assert [text for text, count in owners.items() if count > 1] == []


@pytest.mark.parametrize("name", NAMES)
def test_classes_templates_licence_and_credit_are_stated(name: str) -> None:
    task = tasks()[name]
    assert 2 <= len(task["classes"]) <= 40
    assert len(set(task["classes"])) == len(task["classes"])
    assert 1 <= len(task["templates"]) <= 3
    assert all(template.count("{}") == 1 for template in task["templates"])
    assert all(task[key] for key in ("question", "licence", "credit", "packages"))
    notice = DATA.with_name("NOTICE.md").read_text("utf-8")
    assert f"## {name}\n" in notice
    assert task["licence"] in notice.replace("\n", " ")


@pytest.mark.parametrize("name", NAMES)
def test_sizes_labels_and_majority_rate_are_as_stated(name: str) -> None:
    task = tasks()[name]
    for split in SPLITS:
        texts, labels, _ = load(name, split)
        assert len(texts) == len(labels) == task["examples"][split]
        counts = Counter(labels)
        assert set(counts) <= set(range(len(task["classes"])))
        assert task["majority_rate"][split] == pytest.approx(max(counts.values()) / len(labels), abs=1e-4)
        assert max(counts.values()) / len(labels) <= 2 / len(task["classes"]), "a class dominates"
    assert 2000 <= task["examples"]["train"] <= 4000
    assert 200 <= task["examples"]["validation"] <= 250
    assert task["examples"]["test"] == 600
    for split in ("train", "test"):
        assert set(load(name, split).labels) == set(range(len(task["classes"]))), "a class without examples"


@pytest.mark.parametrize("name", NAMES)
def test_no_text_occurs_twice_and_no_group_lies_in_two_splits(name: str) -> None:
    seen = Counter(normalized(text) for split in SPLITS for text in load(name, split).texts)
    assert [text for text, count in seen.items() if count > 1] == []
    groups = {split: load(name, split).groups for split in SPLITS}
    assert all((found is None) == (tasks()[name]["grouped_by"] is None) for found in groups.values())
    for one, other in combinations(SPLITS, 2):
        assert set(groups[one] or ()).isdisjoint(groups[other] or ())


@pytest.mark.parametrize("name", NAMES)
def test_no_training_text_nearly_equals_one_of_another_split(name: str) -> None:
    train = load(name, "train").texts
    others = load(name, "validation").texts + load(name, "test").texts
    from sklearn.feature_extraction.text import CountVectorizer  # slow import

    grams = CountVectorizer(analyzer="char", ngram_range=(4, 4), binary=True, dtype=np.int32, lowercase=False)
    table = grams.fit_transform([f" {normalized(text)} " for text in (*train, *others)])
    sizes = np.asarray(table.sum(axis=1)).ravel()
    shared = (table[: len(train)] @ table[len(train) :].T).tocoo()
    union = sizes[shared.row] + sizes[len(train) + shared.col] - shared.data
    assert (shared.data / union).max() < 0.8


def test_the_page_lists_the_tasks_as_they_are() -> None:
    page = (Path(__file__).parents[3] / "docs" / "text.md").read_text(encoding="utf-8")
    for number, (name, task) in enumerate(tasks().items(), start=1):
        majority = f"{100 * task['majority_rate']['test']:.1f}"
        cells = [number, name, task["question"], len(task["classes"]), f"{task['examples']['train']:,}", majority]
        assert f"| {' | '.join(map(str, cells))} |" in page
