"""The router on held-out zoos of the embedded benchmark, test images, beside MASS and iso_reg (docs/router.md).

    python benchmarks/router_held_out.py --results router_held_out.jsonl           measure what is missing
    python benchmarks/router_held_out.py --results router_held_out.jsonl --table   print what was measured

Three pre-training seeds × three fine-tuning seeds that the router was not designed on. 100 test images of each task.
The layer of MASS is chosen on validation images of the same zoo, and α of iso_reg too. Bases, fine-tuned models and
results are kept, so an interrupted run resumes. Standard errors are over pre-training seeds.
"""

from typing import Any

import torch
from own_method import Seeds, held_out_parser, order, summary, zoos_line
from router import EPSILON, FIXED, FRACTION, IMAGES, SIZES, Study, Told, combined, mass, outcome
from zoos import Zoo, base_of, record, recorded

from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.console import track

MEASURES = {
    "told": "TSV-C, task known",
    "likelihood": "`router=likelihood`",
    "share": "the same, in % of TSV-C with the task known",
    "mass_best": "`router=mass`, best layer",
    "mass_fixed": "`router=mass`, fixed layer",
    "iso_reg": "`iso_reg`, head known",
    "above_mass": "likelihood above MASS, best layer",
    "above_iso_reg": "likelihood above `iso_reg` with the head known",
    "routed": "task found by `router=likelihood`",
    "routed_mass_best": "task found by MASS, best layer",
}


def single(zoo: Zoo, tasks: int) -> float:
    """Accuracy of iso_reg at its validated α, with the head known, on the same test images."""
    merged = zoo.merge(Method.load("iso_reg"), zoo.models(tasks))
    alpha = zoo.choose(merged).alpha
    found = [zoo.evaluator.correct(merged, alpha, task, "test") for task in merged.tasks]
    return torch.cat([torch.from_numpy(right)[:IMAGES] for right in found if right is not None]).double().mean().item()


def measure(zoo: Zoo, validation: Study, test: Study, tasks: int) -> dict[str, float]:
    """Shares (fractions) of test images that are right with task and head unknown, and of tasks found."""
    told = Told(test, tasks)
    layers = [name for name in test.names if test.wide(name)]
    scores = combined({name: test.scores(name, tasks, EPSILON, FRACTION) for name in layers}, standardize=False)
    labels = validation.labels[validation.labels < tasks]
    routed = {name: (mass(validation, name, tasks).argmax(1) == labels).double().mean() for name in validation.names}
    best = max(routed, key=lambda name: float(routed[name]))
    ours = outcome(test, told, scores, tasks)
    best_layer = outcome(test, told, mass(test, best, tasks), tasks)
    found = {
        "told": told.correct.double().mean().item(),
        "likelihood": ours["accuracy"],
        "mass_best": best_layer["accuracy"],
        "mass_fixed": outcome(test, told, mass(test, FIXED, tasks), tasks)["accuracy"],
        "iso_reg": single(zoo, tasks),
        "routed": ours["routed"],
        "routed_mass_best": best_layer["routed"],
    }
    found["share"] = found["likelihood"] / found["told"]
    found["above_mass"] = found["likelihood"] - found["mass_best"]
    found["above_iso_reg"] = found["likelihood"] - found["iso_reg"]
    return found


def table(entries: list[dict[str, Any]]) -> str:
    """Mean ± standard error over pre-training seeds, in percent."""
    lines = ["| percent | " + " | ".join(f"{tasks} tasks" for tasks in SIZES) + " |"]
    lines.append("| --- |" + " ---: |" * len(SIZES))
    for key, label in MEASURES.items():
        cells = []
        for tasks in SIZES:
            values: dict[Seeds, float] = {
                (e["pretraining"], e["finetuning"]): e[key] for e in entries if e["tasks"] == tasks
            }
            cells.append(summary(values) if values else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", zoos_line((e["pretraining"], e["finetuning"]) for e in entries)])


def main() -> None:
    given = held_out_parser(__doc__)
    options = given.parse_args()
    entries = recorded(options.results)
    if not options.table:
        for seeds in order(options.pretraining, options.finetuning):
            known = {e["tasks"] for e in entries if (e["pretraining"], e["finetuning"]) == seeds}
            if not (missing := [tasks for tasks in SIZES if tasks not in known]):
                continue
            zoo = Zoo(base_of(seeds[0], options.bases), seeds[1], options.data)
            validation, test = Study(zoo, "validation"), Study(zoo, "test")
            for tasks in track(missing, f"pre-training seed {seeds[0]}, fine-tuning seed {seeds[1]}"):
                entry = {"pretraining": seeds[0], "finetuning": seeds[1], "tasks": tasks}
                entries.append(entry | measure(zoo, validation, test, tasks))
                record(options.results, entries[-1])
    print(table(entries))


if __name__ == "__main__":
    main()
