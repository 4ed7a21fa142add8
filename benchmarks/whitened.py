"""Variants of white_reg on its design zoos, scored on validation images (docs/iso_reg_design.md).

    OMP_NUM_THREADS=1 python benchmarks/whitened.py --results whitened.jsonl            measure what is missing
    OMP_NUM_THREADS=1 python benchmarks/whitened.py --results whitened.jsonl --table    print what was measured

The zoos: model=small with images of data seed 777 and fine-tuning seeds 0 and 3, and model=tiny with data and
fine-tuning seed 0. α is chosen on the reported validation images for every variant.
"""

from dataclasses import replace

import torch
from torch import Tensor
from zoos import ConfiguredZoo, parser, record, recorded

from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.console import track

SMALL = ["model=small", "model.data.seed=777", "model.data.validation=200"]
ZOOS = {
    "small 3": [*SMALL, "seed=3"],
    "tiny 0": ["model=tiny", "model.data.seed=0", "seed=0"],
    "small 0": [*SMALL, "seed=0"],
}
SIZES = (8, 20)


def variant(
    deltas: Tensor,
    power: float = 0.5,
    inputs: float = 0.0,
    ridge: float = 0.1,
    fit: float = 0.1,
    prior: float = 1.0,
    within: bool = True,
) -> Tensor:
    """white_reg with configurable parts, in float64.

    Args:
        deltas: (T, m, n).
        power: K is multiplied by (F + λ/m · I)^−power; 0 leaves the regression alone.
        inputs: and by (G + λ/n · I)^−inputs from the right.
        ridge: of the whitening.
        fit: ridge of the regression.
        prior: the regression is drawn to this multiple of Σ Δ_i.
        within: if m > n, whiten in the column space of K only.
    """
    changed = deltas[deltas.flatten(1).any(1)].double()
    if not len(changed):
        return torch.zeros_like(deltas[0])
    m, n = deltas.shape[1:]
    units = changed / changed.flatten(1).norm(dim=1)[:, None, None]
    g, f = (units.mT @ units).sum(0), (units @ units.mT).sum(0)
    moment = (changed @ (units.mT @ units)).sum(0)
    eye, shift = torch.eye(n, dtype=g.dtype), fit * len(units) / n
    fitted = torch.linalg.solve(g + shift * eye, moment + prior * shift * changed.sum(0), left=False)
    merged = fitted
    if power:
        basis = torch.linalg.qr(fitted).Q if within and m > n else torch.eye(m, dtype=g.dtype)
        merged = basis @ _power(basis.mT @ f @ basis, ridge * len(units) / m, -power) @ (basis.mT @ merged)
    if inputs:
        merged = merged @ _power(g, ridge * len(units) / n, -inputs)
    return (merged * (fitted.norm() / merged.norm())).to(deltas.dtype)


def _power(matrix: Tensor, shift: float, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * (values.clamp_min(0) + shift) ** exponent) @ vectors.mT


def own(**params: object) -> Method:
    """A variant as a method."""
    return replace(Method.load("white_reg"), function=variant, params=params)


VARIANTS: dict[str, Method] = {
    **{name: Method.load(name) for name in ("white_reg", "iso_reg", "wudi_closed")},
    "not whitened": own(power=0.0),
    "power 1/4": own(power=0.25),
    "power 3/4": own(power=0.75),
    "power 1": own(power=1.0),
    "both sides by power 1/4": own(power=0.25, inputs=0.25),
    "all outputs": own(within=False),
    "drawn to 0": own(prior=0.0),
    "ridges 0.01": own(ridge=0.01, fit=0.01),
}


def table(entries: list[dict]) -> str:
    """One line per variant: normalized validation accuracy in percent and α, per number of tasks and zoo."""
    found = {(e["zoo"], e["tasks"], e["variant"]): e for e in entries}
    lines = ["| variant | " + " | ".join(f"{zoo}, {tasks} tasks | α" for tasks in SIZES for zoo in ZOOS) + " |"]
    lines.append("| --- |" + " ---: |" * 2 * len(ZOOS) * len(SIZES))
    for name in VARIANTS:
        cells = [found.get((zoo, tasks, name)) for tasks in SIZES for zoo in ZOOS]
        if any(cells):
            values = [f"{100 * e['normalized']:.1f} | {e['alpha']:g}" if e else " | " for e in cells]
            lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__).parse_args()
    entries = recorded(options.results)
    for name, overrides in {} if options.table else ZOOS.items():
        known = {(e["tasks"], e["variant"]) for e in entries if e["zoo"] == name}
        cells = [(tasks, label) for label in VARIANTS for tasks in SIZES if (tasks, label) not in known]
        if cells:
            zoo = ConfiguredZoo(overrides, max(SIZES))
            for tasks, label in track(cells, name):
                point = zoo.choose(zoo.merge(VARIANTS[label], zoo.models(tasks)))
                entry = {"zoo": name, "tasks": tasks, "variant": label, "alpha": point.alpha}
                entries.append({**entry, "normalized": point.mean_normalized})
                record(options.results, entries[-1])
    print(table(entries))


if __name__ == "__main__":
    main()
