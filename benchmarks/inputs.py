"""RegMean, ESM and iso_reg with second moments of layers' inputs: of the task's own images, of other tasks', of noise.

    OMP_NUM_THREADS=1 python benchmarks/inputs.py --results inputs.jsonl            measure what is missing
    OMP_NUM_THREADS=1 python benchmarks/inputs.py --results inputs_lora.jsonl --finetune lora      of low rank
    python benchmarks/inputs.py --results inputs.jsonl --table                    print what was measured

The default zoo of the embedded benchmark: the package's base, fine-tuning seed 0, 8 tasks. All figures are of the
validation images on which α is chosen (`alpha=search`), relative to the fine-tuned models; with `validation` the
method has seen these images without labels. No test image is used.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from zoos import ConfiguredZoo, parser, record, recorded

from tsv_exp.api import merge
from tsv_exp.evaluation.moments import Inputs, Noise, OtherTasks, Validation, second_moments
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.console import track

TASKS = 8
FEW = 32
INPUTS: dict[str, Inputs | None] = {
    "none": None,
    "validation": Validation(),
    f"validation, {FEW} images": Validation(FEW),
    "other tasks": OtherTasks(),
    "noise": Noise(),
}
AVERAGE = "tsv_exp.methods.weight_average"


def regression(
    deltas: Tensor, moments: Tensor | None = None, outputs: bool = True, ridge: float = 0.1, margin: float = 0.1
) -> Tensor:
    """iso_reg with A_i / tr A_i in the place of D_iᵀ D_i on the input side; without moments iso_reg itself.

    Args:
        deltas: (T, m, n).
        moments: A_i (T, n, n).
        outputs: whether the regression on the output side, which knows no data, takes part.
        ridge: of the regressions, as in iso_reg.
        margin: of the flattening, as in iso_reg.
    """
    taus = deltas.double()
    changed = taus.flatten(1).any(1)
    if not changed.any():
        return torch.zeros_like(deltas[0])
    taus = taus[changed]
    units = taus / taus.flatten(1).norm(dim=1)[:, None, None]
    own = units.mT @ units if moments is None else moments[changed].double()
    own = own / own.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    target = torch.linalg.solve(_regularized(own.sum(0), ridge), (taus @ own).sum(0), left=False)
    if outputs:
        theirs = torch.linalg.solve(_regularized((units @ units.mT).sum(0), ridge), (taus @ units.mT @ units).sum(0))
        target = (target + theirs) / 2
    u, s, vh = torch.linalg.svd(target, full_matrices=False)
    flat = s / (s.square() + margin * s.square().mean()).sqrt()
    return (u * (flat * (flat @ s) / (flat @ flat)) @ vh).to(deltas.dtype)


def _regularized(gram: Tensor, ridge: float) -> Tensor:
    return gram + ridge * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)


ROWS: dict[str, Callable[[], Method]] = {
    "regmean": lambda: Method.load("regmean"),
    "regmean, then flatten": lambda: Method.load("regmean").with_params(after=["flatten"]),
    "esm": lambda: Method.load("esm"),
    "iso_reg": lambda: _own(),
    "iso_reg, ridge 0.01": lambda: _own(ridge=0.01),
    "iso_reg, input side only": lambda: _own(outputs=False),
}


def _own(**params: float | bool) -> Method:
    keys = {"name": "iso_reg", "_target_": "inputs.regression", "layers": "matrices", "others": AVERAGE}
    return Method.from_config(keys | params)


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--finetune", choices=["full", "lora"], default="full", help="how the checkpoints are trained")
    options = given.parse_args()
    entries = recorded(options.results)
    known = {(e["row"], e["inputs"]) for e in entries}
    cells = [(row, used) for used in INPUTS for row in ROWS if (row, used) not in known]
    cells = [(row, used) for row, used in cells if used != "none" or not ROWS[row]().needs_moments]
    if cells and not options.table:
        zoo = ConfiguredZoo([f"finetune={options.finetune}"], TASKS)
        models = zoo.models(TASKS)
        zoo.evaluator.tasks = {name: zoo.evaluator.tasks[name] for name in models}
        found = {name: used and second_moments(used, zoo.evaluator, models) for name, used in INPUTS.items()}
        for row, used in track(cells, "methods with inputs"):
            moments = found[used]
            merged = merge(zoo.base, models, ROWS[row](), moments=moments or (lambda name: None))
            point = zoo.choose(merged)
            entries.append({"row": row, "inputs": used, "alpha": point.alpha, "validation": point.mean_normalized})
            record(options.results, entries[-1])
    by_cell = {(e["row"], e["inputs"]): e for e in entries}
    print("| inputs | " + " | ".join(ROWS) + " |\n| --- |" + " ---: |" * len(ROWS))
    for used in INPUTS:
        shown = [by_cell.get((row, used)) for row in ROWS]
        texts = [f"{100 * e['validation']:.1f} ({e['alpha']:.2f})" if e else "" for e in shown]
        print(f"| {used} | " + " | ".join(texts) + " |")


if __name__ == "__main__":
    main()
