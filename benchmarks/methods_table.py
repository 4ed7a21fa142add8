"""Methods with one model for all tasks, on the first 8 tasks of the embedded benchmark, and steps after them.

    OMP_NUM_THREADS=1 python benchmarks/methods_table.py --results methods_table.jsonl          measure what is missing
    python benchmarks/methods_table.py --results methods_table.jsonl --table                  print what was measured

The zoo is the default one: the package's base, fine-tuning seed 0. α is chosen on validation images (`alpha=search`),
and λ of CART likewise; beside it stands the α of `alpha=data_free`. Differences below two standard errors say nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoos import Zoo, parser, record, recorded

from tsv_exp.config import Engine
from tsv_exp.evaluation.alpha import Point, mean, normalized
from tsv_exp.evaluation.alpha.data_free import data_free_scale
from tsv_exp.evaluation.reference import finetuned_accuracies
from tsv_exp.merging.engine import Merged
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.console import track

TASKS, DATA = 8, 2412  # the seed of the data is the default of the embedded benchmark


@dataclass(frozen=True)
class Row:
    """A method with parameters; of several `choices` of parameters the best on validation is taken."""

    label: str
    method: str
    choices: Sequence[Mapping[str, Any]] = ({},)


PLAIN = ["weight_average", "task_arithmetic", "ties", "dare", "dare_ties", "breadcrumbs", "consensus_ta", "tsv_m"]
PLAIN += ["tsv_m_no_orthogonalization", "iso_c", "iso_cts", "iso_reg", "white_reg", "dc_merge", "wudi", "wudi_closed"]
PLAIN += ["swudi", "aswudi", "actmat", "ace", "subspace_boosting", "tsv_m_marchenko_pastur", "knots_ties"]
CALIBRATED = ["task_arithmetic", "tsv_m", "iso_c", "iso_cts", "iso_reg", "wudi_closed", "actmat", "dc_merge", "ace"]
ROWS = [
    *(Row(name, name) for name in PLAIN),
    Row("cart, λ by validation", "cart", [{"lambda_": step / 4} for step in range(1, 13)]),
    Row("tsv_m_marchenko_pastur, then flatten", "tsv_m_marchenko_pastur", [{"after": ["flatten"]}]),
    *(Row(f"{name}, then svc", name, [{"after": ["svc"]}]) for name in CALIBRATED),
    Row("weight_average, then svc with floor 1/T", "weight_average", [{"after": [{"svc": {"floor": 1 / TASKS}}]}]),
]


def measure(zoo: Zoo, row: Row) -> dict[str, Any]:
    """α by both rules; normalized validation accuracy at both, test accuracy at the validated one (fractions)."""
    models = zoo.models(TASKS)
    tried: list[tuple[Merged, Point]] = []
    for params in row.choices:
        merged = zoo.merge(Method.load(row.method).with_params(**params), models)
        tried.append((merged, zoo.choose(merged)))
    merged, chosen = max(tried, key=lambda pair: pair[1].mean_normalized)
    alpha = data_free_scale(merged, TaskVectors.of(zoo.base, models, Engine()))
    test = zoo.accuracies(merged, chosen.alpha, "test")
    reference = finetuned_accuracies(zoo.evaluator, zoo.base, zoo.finetuned, "test")
    variances = zoo.evaluator.variances(test, "test")
    return {
        "row": row.label,
        "params": dict(merged.params),
        "alpha": chosen.alpha,
        "validation": chosen.mean_normalized,
        "data_free": {"alpha": alpha, "validation": zoo.point(merged, alpha).mean_normalized},
        "fixed": merged.method.alpha.steps == 1,  # type: ignore[attr-defined]
        "test": mean(test),
        "standard_error": math.sqrt(math.fsum(variances.values())) / len(variances),
        "normalized": mean(normalized(test, reference)),
    }


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Test accuracy, best first; what the data-free α costs is in points of normalized validation accuracy."""
    lines = [
        "| method | test | normalized | α | data-free α | its loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for e in sorted(entries, key=lambda e: -e["test"]):
        free = e["data_free"]
        loss = f"{free['alpha']:.2f} | {100 * (e['validation'] - free['validation']):.1f}"
        lines.append(
            f"| {e['row']} | {100 * e['test']:.1f} | {100 * e['normalized']:.1f} | {e['alpha']:.2f} | "
            f"{'fixed |' if e['fixed'] else loss} |"
        )
    errors = [100 * e["standard_error"] for e in entries]
    return "\n".join([*lines, "", f"Standard errors of test: {min(errors):.2f} to {max(errors):.2f}."])


def main() -> None:
    options = parser(__doc__).parse_args()
    entries = recorded(options.results)
    known = {e["row"] for e in entries}
    missing = [row for row in ROWS if row.label not in known]
    if missing and not options.table:
        zoo = Zoo(None, 0, DATA)
        for row in track(missing, "methods"):
            entries.append(measure(zoo, row))
            record(options.results, entries[-1])
    print(table(entries))


if __name__ == "__main__":
    main()
