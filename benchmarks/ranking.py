"""How a benchmark orders merging methods, compared with published figures of CLIP ViT-B-32.

    tsv-report SWEEP...                            writes table.csv of a benchmark's runs
    python benchmarks/ranking.py TABLE.csv...      compares every table in it that has 8, 14 or 20 tasks

- Kendall's τ between our average accuracies and published ones, over the pairs of merging methods that a family of
  published checkpoints separates by at least 1 point. Figures of different families do not compare, so pairs are taken
  within a family, and a pair counts once for every family that separates it.
- Our normalized accuracy minus the published one, in points, for families with published fine-tuned models; normalized
  is the average over tasks of the accuracy divided by that of the fine-tuned model. Where only averages over tasks were
  published, their quotient stands for it.
"""

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, groupby
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from tsv_exp.methods.specification.method import Method
from tsv_exp.report.results.published import averages, families, published
from tsv_exp.tasks.definitions import task_names

MODEL = "vit_b_32"
APART = 1.0  # points between two published averages that count as an order
SIZES = (8, 14, 20)


class Figures(NamedTuple):
    """Of one method, in percent: its average accuracy, and the normalized one, None where it is unknown."""

    average: float
    normalized: float | None


Table = Mapping[str, Figures]  # by method


def ours(file: Path) -> Iterator[tuple[str, int, Table]]:
    """Title, number of tasks, and figures of each table in a table.csv; methods with their default parameters."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["status"] == "ok" and int(row["tasks"]) in SIZES]
    for title, group in groupby(rows, lambda row: row["table"]):
        found = list(group)
        default = [row for row in found if row["row"] == row["method"]]  # a changed parameter is in the row's label
        figures = {row["method"]: Figures(float(row["average"]), float(row["normalized"])) for row in default}
        yield title, int(found[0]["tasks"]), figures


def theirs(family: str, count: int, methods: Sequence[str]) -> dict[str, Figures]:
    """The published figures of a family on the first tasks of CLIP's set; methods without an average are absent."""
    tasks, found = task_names("clip", None)[:count], {}
    finetuned = averages(family, MODEL, tasks, published(family, MODEL, tasks, "individual", {}))
    for method in methods:
        stated = published(family, MODEL, tasks, method, Method.load(method).params)
        figures = averages(family, MODEL, tasks, stated) | stated
        if "average" in figures:
            quotient = 100 * figures["average"] / finetuned["average"] if finetuned else None
            found[method] = Figures(figures["average"], figures.get("normalized", quotient))
    return found


def agreements(own: Table, other: Table) -> list[tuple[str, str, int]]:
    """Pairs of methods that `other` separates, its better one first: 1 if `own` has that order, −1 if the other, 0."""
    pairs = []
    for pair in combinations(sorted(own.keys() & other.keys()), 2):
        better, worse = sorted(pair, key=lambda method: -other[method].average)
        if other[better].average - other[worse].average >= APART:
            ahead, behind = own[better].average, own[worse].average
            pairs.append((better, worse, (ahead > behind) - (ahead < behind)))
    return pairs


def differences(own: Table, other: Table) -> dict[str, float]:
    """Method -> our normalized accuracy minus theirs, in points; methods without either are absent."""
    both = sorted((own.keys() & other.keys()) - {"individual"})
    pairs = {name: (own[name].normalized, other[name].normalized) for name in both}
    return {name: ours - theirs for name, (ours, theirs) in pairs.items() if ours is not None and theirs is not None}


def compare(title: str, count: int, own: Table) -> None:
    """Print how these averages on the first `count` tasks compare with the published ones."""
    merged = {name: value for name, value in own.items() if name not in ("individual", "zero_shot")}
    pairs, lines = [], []
    for family in families():
        other = theirs(family, count, list(own))
        pairs += agreements(merged, other)
        if apart := differences(own, other):
            lines.append(f"  {family}: " + ", ".join(f"{name} {value:+.1f}" for name, value in apart.items()))
    tau = f"{fmean(sign for *_, sign in pairs):.2f}" if pairs else "undefined"
    print(f"{title}: Kendall's τ {tau} over {len(pairs)} pairs")
    print("\n".join(["  normalized, minus published:", *lines] if lines else ["  no published counterpart"]))
    for better, worse, _ in (pair for pair in pairs if pair[2] < 1):
        print(f"  other order here: {better} is published above {worse}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.csv", help="what tsv-report wrote")
    for file in parser.parse_args().tables:
        for title, count, own in ours(file):
            compare(title, count, own)


if __name__ == "__main__":
    main()
