"""iso_reg compared with every other method that gives a single merged model, on held-out seeds.

    OMP_NUM_THREADS=2 python benchmarks/own_method.py --results own_method.jsonl           measure what is missing
    python benchmarks/own_method.py --results own_method.jsonl --table                    print what was measured

Pre-training seeds × fine-tuning seeds × 8, 14, 20 tasks × methods; α on validation by each method's own grid, accuracy
on test images. Bases, fine-tuned models and accuracies are cached and results are appended one by one, so an
interrupted run resumes. Standard errors are over pre-training seeds (each the mean over its
fine-tuning seeds), of paired differences where two methods are compared.
"""

import argparse
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zoos import Zoo, base_of, parser, record, recorded

from tsv_exp.evaluation.alpha import mean, normalized
from tsv_exp.evaluation.reference import finetuned_accuracies
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.console import track

OWN, RIVAL = "iso_reg", "tsv_m"
METHODS = [OWN, "white_reg", RIVAL, "iso_cts", "iso_c", "task_arithmetic", "ties", "weight_average", "consensus_ta"]
METHODS += ["dare", "dare_ties", "breadcrumbs", "knots_ties", "tsv_m_no_truncation", "tsv_m_no_orthogonalization"]
Seeds = tuple[int, int]


def order(pretraining: Sequence[int], finetuning: Sequence[int]) -> list[Seeds]:
    """All pairs of seeds, starting with pairs that use every seed once."""
    size = len(finetuning)
    return [(p, finetuning[(i + shift) % size]) for shift in range(size) for i, p in enumerate(pretraining)]


def measure(zoo: Zoo, seeds: Seeds, tasks: int, name: str) -> dict[str, Any]:
    """One method on the first tasks of a zoo: α by validation, accuracy (a fraction) on test."""
    models = zoo.models(tasks)
    merged = zoo.merge(Method.load(name), models)
    point = zoo.choose(merged)
    test = zoo.accuracies(merged, point.alpha, "test")
    finetuned = finetuned_accuracies(zoo.evaluator, zoo.base, zoo.finetuned, "test")
    return {
        "pretraining": seeds[0],
        "finetuning": seeds[1],
        "tasks": tasks,
        "method": name,
        "alpha": point.alpha,
        "validation": point.mean_accuracy,
        "test": mean(test),
        "accuracy": test,
        "normalized": mean(normalized(test, finetuned)),
    }


Found = Mapping[tuple[int, str, Seeds], Mapping[str, Any]]


def by_key(entries: Iterable[Mapping[str, Any]]) -> Found:
    """The results by tasks, method and seeds."""
    return {(e["tasks"], e["method"], (e["pretraining"], e["finetuning"])): e for e in entries}


def held_out_parser(description: str | None) -> argparse.ArgumentParser:
    """Options of a script that measures the held-out zoos."""
    given = parser(description)
    given.add_argument("--pretraining", type=int, nargs="+", default=[11, 12, 13], metavar="SEED")
    given.add_argument("--finetuning", type=int, nargs="+", default=[11, 12, 13], metavar="SEED")
    given.add_argument("--data", type=int, default=2412, metavar="SEED", help="from which the images are drawn")
    return given


def zoos_line(zoos: Iterable[Seeds]) -> str:
    """The zoos that a table is of."""
    return f"Zoos (pre-training seed, fine-tuning seed): {', '.join(map(str, sorted(set(zoos))))}."


def summary(values: Mapping[Seeds, float]) -> str:
    """Mean ± standard error over pre-training seeds, in percent."""
    groups: dict[int, list[float]] = {}
    for (pretraining, _), value in values.items():
        groups.setdefault(pretraining, []).append(100 * value)
    means = [statistics.fmean(group) for group in groups.values()]
    error = f" ± {statistics.stdev(means) / math.sqrt(len(means)):.2f}" if len(means) > 1 else ""
    return f"{statistics.fmean(means):.2f}{error}"


def table(found: Found, sizes: Sequence[int], measured: str = "test") -> str:
    """Accuracy of every method, and the lead of iso_reg on the zoos measured for both."""
    methods = [name for name in METHODS if any(key[1] == name for key in found)]
    lines = ["| method | " + " | ".join(f"{t} tasks | {OWN} ahead by" for t in sizes) + " |"]
    lines.append("| --- |" + " ---: |" * 2 * len(sizes))
    for name in methods:
        cells = []
        for tasks in sizes:
            own, theirs = (
                {key[2]: e[measured] for key, e in found.items() if key[:2] == (tasks, method)}
                for method in (OWN, name)
            )
            paired = {seeds: own[seeds] - theirs[seeds] for seeds in own.keys() & theirs.keys()}
            cells += [summary(theirs) if theirs else "", summary(paired) if paired and name != OWN else ""]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", zoos_line(key[2] for key in found)])


def main() -> None:
    given = held_out_parser(__doc__)
    given.add_argument("--tasks", type=int, nargs="+", default=[8, 14, 20], metavar="T")
    given.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, metavar="NAME")
    options = given.parse_args()
    entries = recorded(options.results)
    if not options.table:
        for seeds in order(options.pretraining, options.finetuning):
            known = by_key(entries)
            cells = [(t, name) for name in options.methods for t in options.tasks if (t, name, seeds) not in known]
            if not cells:
                continue
            zoo = Zoo(base_of(seeds[0], options.bases), seeds[1], options.data)
            for tasks, name in track(cells, f"pre-training seed {seeds[0]}, fine-tuning seed {seeds[1]}"):
                entries.append(measure(zoo, seeds, tasks, name))
                record(options.results, entries[-1])
    print(table(by_key(entries), options.tasks))


if __name__ == "__main__":
    main()
