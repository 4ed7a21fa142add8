"""From labelled texts to train, validation and test: no text twice, no group in two splits, balanced classes."""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from text_benchmark.recipe import Example, Recipe, squeeze

SIZES = {"test": 600, "validation": 250, "train": 4000}
SEED = 2412
NEAR = 0.8  # texts that share this much of their 4-grams (Jaccard) are near-duplicates
SHARE = 1.6  # a class has at most this many times the examples of an even distribution


def normalized(text: str) -> str:
    """Return what two texts must not share: letters and digits only, in one case."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def distinct(rows: Iterable[Example], classes: Iterable[str]) -> list[Example]:
    """Return the rows of the classes without repeated texts; a text with two labels is dropped altogether."""
    known = set(classes)
    kept = [row._replace(text=squeeze(row.text)) for row in rows if row.label in known]
    labels: dict[str, set[str]] = defaultdict(set)
    for row in kept:
        labels[normalized(row.text)].add(row.label)
    first: dict[str, Example] = {}
    for row in kept:
        key = normalized(row.text)
        if len(key) > 1 and len(labels[key]) == 1:
            first.setdefault(key, row)
    return [first[key] for key in sorted(first)]


def capped(rows: list[Example], most: int, rng: random.Random) -> list[Example]:
    """Return the rows in random order with at most `most` of each class."""
    rng.shuffle(rows)
    count: Counter[str] = Counter()
    kept = []
    for row in rows:
        count[row.label] += 1
        if count[row.label] <= most:
            kept.append(row)
    return kept


def split(recipe: Recipe, rows: Iterable[Example]) -> dict[str, list[Example]]:
    """Return the splits of one task, each with about the same share of every class.

    Whole groups go to test, then to validation, until each has its share of the class (of the group's first example),
    the rest to train. Without groups every example is a group of its own. The same packages give the same splits: the
    only random source is a generator with a fixed seed.
    """
    rng = random.Random(SEED)
    most = int(SHARE * sum(SIZES.values()) / len(recipe.classes))
    examples = capped(distinct(rows, recipe.classes), most, rng)
    groups: dict[str, list[Example]] = defaultdict(list)
    for number, row in enumerate(examples):
        groups[str(number) if row.group is None else row.group].append(row)
    order = list(groups)
    rng.shuffle(order)
    parts: dict[str, list[Example]] = {name: [] for name in SIZES}
    filled: Counter[tuple[str, str]] = Counter()
    available = Counter(row.label for row in examples)
    for group in order:
        label = groups[group][0].label
        room = {name: SIZES[name] * available[label] / len(examples) for name in ("test", "validation")}
        target = next((name for name in room if filled[name, label] < room[name]), "train")
        left = math.ceil(room[target] - filled[target, label]) if target in room else len(groups[group])
        filled[target, label] += min(left, len(groups[group]))
        parts[target].extend(groups[group][:left])  # what a held-out group has beyond that is in no split
    for part in parts.values():
        rng.shuffle(part)
    test = parts["test"][: SIZES["test"]]
    validation = without_near(parts["validation"], test)[: SIZES["validation"]]
    return {
        "train": without_near(parts["train"], test + validation)[: SIZES["train"]],
        "validation": validation,
        "test": test,
    }


def without_near(rows: list[Example], others: Sequence[Example]) -> list[Example]:
    """Return the rows whose text is no near-duplicate of another's: Jaccard similarity of 4-grams of characters."""
    from sklearn.feature_extraction.text import CountVectorizer  # slow import

    vectorizer = CountVectorizer(analyzer="char", ngram_range=(4, 4), binary=True, dtype=np.int32, lowercase=False)
    grams = vectorizer.fit_transform([f" {normalized(row.text)} " for row in (*rows, *others)])
    sizes, count = np.asarray(grams.sum(axis=1)).ravel(), len(rows)
    shared = (grams[:count] @ grams[count:].T).tocoo()
    union = sizes[shared.row] + sizes[count + shared.col] - shared.data
    near = set(shared.row[shared.data >= NEAR * union])
    return [row for number, row in enumerate(rows) if number not in near]
