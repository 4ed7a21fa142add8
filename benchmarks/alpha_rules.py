"""Data-free rules for α, compared with the α chosen on validation.

    OMP_NUM_THREADS=1 python benchmarks/alpha_rules.py --results alpha_rules.jsonl            measure what is missing
    python benchmarks/alpha_rules.py --results alpha_rules.jsonl --table                     print what was measured

The zoo of the package's base (fine-tuning seed 0, data seed 0), on which `alpha=data_free` was chosen, and zoos that
were not used for that. Accuracies are those of validation images relative to the fine-tuned models, at each rule's α.
"""

import math
import statistics
from collections.abc import Mapping

from zoos import Zoo, base_of, parser, record, recorded

from tsv_exp import layers
from tsv_exp.evaluation.alpha.data_free import all_responses, data_free_scale
from tsv_exp.merging.engine import Merged
from tsv_exp.merging.layer import Weights
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.console import track

SEEDS = {"0": (0, 0), "11": (11, 2412), "12": (12, 2412), "13": (13, 2412)}  # pre-training = fine-tuning, data
METHODS, SIZES = ("tsv_m", "iso_c", "iso_reg"), (8, 14, 20)
VALIDATED = "validated"


def rules(merged: Merged, base: Weights, models: Mapping[str, Weights]) -> dict[str, float]:
    """The α of every rule, from the matrices alone."""
    vectors = TaskVectors(base, models)
    along = dict.fromkeys(models, 0.0)  # ⟨M, Δ_i⟩ and ‖Δ_i‖², over layers
    own = dict(along)
    size = 0.0  # ‖M‖²
    for name in filter(vectors.is_matrix, vectors.names):
        deltas = vectors.layer(name).deltas.double()
        m = layers.delta(merged.layers[name], deltas.shape[1:]).double()
        size += float(m.square().sum())
        for task, delta in zip(models, deltas, strict=True):
            along[task] += float((m * delta).sum())
            own[task] += float(delta.square().sum())
    found = all_responses(merged, vectors)
    return {
        "a: equal response to D": math.sqrt(found.own / found.theirs),
        "b: least squares on D": found.common / found.theirs,
        "√(a · b), data_free": data_free_scale(merged, vectors),
        "mean of ⟨M, Δ⟩/‖Δ‖² is 1": 1 / statistics.fmean(along[task] / own[task] for task in models),
        "‖αM‖² is Σ ‖Δ‖²": math.sqrt(sum(own.values()) / size),
        "α = 1": 1.0,
    }


def measure(zoo: Zoo, tasks: int, name: str) -> dict[str, tuple[float, float]]:
    """Rule -> α and normalized validation accuracy (a fraction)."""
    models = zoo.models(tasks)
    merged = zoo.merge(Method.load(name), models)
    chosen = zoo.choose(merged)
    found = {VALIDATED: (chosen.alpha, chosen.mean_normalized)}
    for rule, alpha in rules(merged, zoo.base, models).items():
        found[rule] = (alpha, zoo.point(merged, alpha).mean_normalized)
    return found


def table(entries: list[dict], zoos: list[str]) -> str:
    """Accuracy in percent, and the mean α in parentheses, over these zoos."""
    columns = [(name, tasks) for name in METHODS for tasks in SIZES]
    lines = ["| rule | " + " | ".join(f"{name}, {tasks}" for name, tasks in columns) + " |"]
    lines.append("| --- |" + " ---: |" * len(columns))
    cells: dict[tuple[str, int], list[dict]] = {(e["method"], e["tasks"]): [] for e in entries}
    for e in entries:
        if e["zoo"] in zoos:
            cells[e["method"], e["tasks"]].append(e["found"])
    for rule in next(iter(entries))["found"]:
        row = []
        for column in columns:
            found = [measured[rule] for measured in cells.get(column, [])]
            row.append(
                f"{100 * statistics.fmean(v for _, v in found):.1f} ({statistics.fmean(a for a, _ in found):.2f})"
                if found
                else ""
            )
        lines.append(f"| {rule} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--zoos", nargs="+", default=list(SEEDS), choices=list(SEEDS), help="pre-training seeds")
    options = given.parse_args()
    entries = recorded(options.results)
    for seed in [] if options.table else options.zoos:
        known = {(e["method"], e["tasks"]) for e in entries if e["zoo"] == seed}
        if missing := [(name, tasks) for name in METHODS for tasks in SIZES if (name, tasks) not in known]:
            zoo = Zoo(base_of(int(seed), options.bases), *SEEDS[seed])
            for name, tasks in track(missing, f"zoo {seed}"):
                entries.append({"zoo": seed, "method": name, "tasks": tasks, "found": measure(zoo, tasks, name)})
                record(options.results, entries[-1])
    for seeds in (["0"], [seed for seed in options.zoos if seed != "0"]):
        print(f"zoos {', '.join(seeds)}\n\n{table(entries, seeds)}\n")


if __name__ == "__main__":
    main()
