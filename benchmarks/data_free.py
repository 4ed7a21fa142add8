"""What `alpha=data_free` loses against the α chosen on validation, for every method on zoos that are trained here.

    OMP_NUM_THREADS=1 python benchmarks/data_free.py --results data_free.jsonl        measure what is missing
    python benchmarks/data_free.py --results data_free.jsonl --table                print what was measured

Fine-tuning seed 0. Both values of α are scored on the same validation examples; test examples are not looked at. The
entries of the zoo `tiny` with 8 tasks in benchmarks/results are those of methods_table.py, which measures the same.
Methods whose α is fixed, and methods with a model per task, have no choice to make.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from zoos import ConfiguredZoo, parser, record, recorded

from tsv_exp.config import Engine
from tsv_exp.evaluation.alpha.data_free import data_free_scale
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.console import track

ZOOS = {  # overrides of tsv-exp, and the numbers of tasks that are merged
    "tiny": ((), (8, 14, 20)),
    "tiny, LoRA 16": (("finetune=lora",), (8,)),
    "small": (("model=small",), (8, 14, 20)),
    "minilm": (("model=minilm",), (8,)),
}
METHODS = [
    "iso_reg",
    "white_reg",
    "tsv_m",
    "iso_cts",
    "iso_c",
    "dc_merge",
    "ace",
    "actmat",
    "wudi_closed",
    "swudi",
    "aswudi",
    "task_arithmetic",
    "ties",
]
METHODS += ["consensus_ta", "breadcrumbs", "dare", "dare_ties", "knots_ties", "tsv_m_marchenko_pastur"]
METHODS += ["tsv_m_no_orthogonalization", "subspace_boosting", "wudi", "tsv_m_no_truncation"]


def measure(zoo: ConfiguredZoo, count: int, method: str) -> dict[str, Any]:
    """Both values of α, and the normalized validation accuracy (a fraction) at each."""
    merged = zoo.merge(Method.load(method), zoo.models(count))
    chosen = zoo.choose(merged)
    alpha = data_free_scale(merged, TaskVectors.of(zoo.base, zoo.models(count), Engine().of(zoo.model.exclude)))
    free = zoo.point(merged, alpha)
    return {"validated": [chosen.alpha, chosen.mean_normalized], "data_free": [alpha, free.mean_normalized]}


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Loss in points of normalized validation accuracy, with the data-free α / the validated α in parentheses."""
    columns = [(zoo, count) for zoo, (_, counts) in ZOOS.items() for count in counts]
    found = {(e["method"], e["zoo"], e["tasks"]): e for e in entries}
    lines = ["| method | " + " | ".join(f"{zoo}, {count}" for zoo, count in columns) + " |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    for method in METHODS:
        cells = [_cell(found.get((method, *column))) for column in columns]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    (alpha, best), (free, accuracy) = entry["validated"], entry["data_free"]
    return f"{100 * (best - accuracy):.1f} ({free:.2f} / {alpha:.2f})"


def main() -> None:
    given: argparse.ArgumentParser = parser(__doc__)
    given.add_argument("--zoos", nargs="+", default=list(ZOOS), choices=list(ZOOS))
    options = given.parse_args()
    entries = recorded(options.results)
    known = {(e["zoo"], e["tasks"], e["method"]) for e in entries}
    for name in [] if options.table else options.zoos:
        overrides, counts = ZOOS[name]
        wanted = [(count, method) for count in counts for method in METHODS]
        if missing := [pair for pair in wanted if (name, *pair) not in known]:
            zoo = ConfiguredZoo(overrides, max(counts))
            for count, method in track(missing, name):
                entries.append({"zoo": name, "tasks": count, "method": method, **measure(zoo, count, method)})
                record(options.results, entries[-1])
    print(table(entries))


if __name__ == "__main__":
    main()
