"""How a benchmark orders merging methods, compared with published figures of CLIP ViT-B-32.

    tsv-report SWEEP...                            writes table.csv of a benchmark's runs
    python benchmarks/ranking.py TABLE.csv...      compares every table in it that has 8, 14 or 20 tasks

- Kendall's τ between our average accuracies and published ones, over the pairs of merging methods that a family of
  published checkpoints separates by at least 1 point. Figures of different families do not compare, so pairs are taken
  within a family, and a pair counts once for every family that separates it.
- Our normalized accuracy minus the published one, in points, for families with published fine-tuned models; normalized
  is the average accuracy divided by that of the fine-tuned models.
"""

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, groupby
from pathlib import Path
from statistics import fmean

from tsv_exp.methods.specification.method import Method
from tsv_exp.report.results.published import families, published
from tsv_exp.tasks.definitions import task_names

MODEL = "vit_b_32"
APART = 1.0  # points between two published averages that count as an order
SIZES = (8, 14, 20)
Averages = Mapping[str, float]  # method -> average accuracy in percent


def ours(file: Path) -> Iterator[tuple[str, int, Averages]]:
    """Title, number of tasks, and averages of each table in a table.csv; methods with their default parameters."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["status"] == "ok" and int(row["tasks"]) in SIZES]
    for title, group in groupby(rows, lambda row: row["table"]):
        found = list(group)
        default = [row for row in found if row["row"] == row["method"]]  # a changed parameter is in the row's label
        yield title, int(found[0]["tasks"]), {row["method"]: float(row["average"]) for row in default}


def theirs(family: str, count: int, methods: Sequence[str]) -> dict[str, float]:
    """The published averages of a family on the first tasks of CLIP's set; methods without one are absent."""
    tasks, found = task_names("clip", None)[:count], {}
    for method in methods:
        figures = published(family, MODEL, tasks, method, Method.load(method).params)
        if "average" in figures:
            found[method] = figures["average"]
        elif figures.keys() >= set(tasks):
            found[method] = fmean(figures[task] for task in tasks)
    return found


def agreements(own: Averages, other: Averages) -> list[tuple[str, str, int]]:
    """Pairs of methods that `other` separates, its better one first: 1 if `own` has that order, −1 if the other, 0."""
    pairs = []
    for pair in combinations(sorted(own.keys() & other.keys()), 2):
        better, worse = sorted(pair, key=lambda method: -other[method])
        if other[better] - other[worse] >= APART:
            pairs.append((better, worse, (own[better] > own[worse]) - (own[better] < own[worse])))
    return pairs


def differences(own: Averages, other: Averages) -> dict[str, float]:
    """Method -> our normalized accuracy minus theirs, in points; empty where the fine-tuned models are missing."""
    if not own.keys() & other.keys() >= {"individual"}:
        return {}
    normalized = [{name: 100 * value / side["individual"] for name, value in side.items()} for side in (own, other)]
    both = sorted((own.keys() & other.keys()) - {"individual"})
    return {name: normalized[0][name] - normalized[1][name] for name in both}


def compare(title: str, count: int, own: Averages) -> None:
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
