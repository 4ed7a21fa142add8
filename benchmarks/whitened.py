"""Variants of white_reg on its design zoos, scored on validation images (docs/iso_reg_design.md).

    OMP_NUM_THREADS=1 python benchmarks/whitened.py --results whitened.jsonl            measure what is missing
    OMP_NUM_THREADS=1 python benchmarks/whitened.py --results whitened.jsonl --table    print what was measured

The zoos: model=small with images of data seed 777 and fine-tuning seeds 0 and 3, and model=tiny with data and
fine-tuning seed 0. Of low rank: model=small with the same seeds, and model=tiny with fine-tuning seed 5, fine-tuned by
LoRA. α is chosen on the reported validation images for every variant.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
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
LORA = ["finetune=lora", "model.finetune.lora.rank=16"]
LOW_RANK = {
    "LoRA small 0": [*SMALL, *LORA, "seed=0"],
    "LoRA small 3": [*SMALL, *LORA, "seed=3"],
    "LoRA tiny 5": ["model=tiny", *LORA, "seed=5"],
    "LoRA tiny 5, rank 4": ["model=tiny", "finetune=lora", "model.finetune.lora.rank=4", "seed=5"],
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
    swapped: bool = False,
    size: float = 0.0,
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
        swapped: inputs and outputs change places.
        size: the result has the norm of K, divided by T^size.
    """
    if swapped:
        return variant(deltas.mT, power, inputs, ridge, fit, prior, within, size=size).mT
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
    return (merged * (fitted.norm() / merged.norm() / len(units) ** size)).to(deltas.dtype)


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
LOW_RANK_VARIANTS: dict[str, Method] = {
    **{name: Method.load(name) for name in ("white_reg", "tsv_m", "iso_reg")},
    "sides swapped, power 1/4": own(swapped=True, power=0.25),
    "sides as for full rank": own(),
    "sides swapped, power 1/2": own(swapped=True),
    "sides swapped, power 1/2, divided by the root of T": own(swapped=True, size=0.5),
    "sides swapped, not whitened": own(swapped=True, power=0.0),
    "sides swapped, power 1/4, ridges 0.3": own(swapped=True, power=0.25, ridge=0.3, fit=0.3),
}
STUDIES = ((LOW_RANK, LOW_RANK_VARIANTS), (ZOOS, VARIANTS))


def table(entries: list[dict], zoos: Collection[str], variants: Collection[str]) -> str:
    """One line per variant: normalized validation accuracy in percent and α, per number of tasks and zoo."""
    found = {(e["zoo"], e["tasks"], e["variant"]): e for e in entries}
    lines = ["| variant | " + " | ".join(f"{zoo}, {tasks} tasks | α" for tasks in SIZES for zoo in zoos) + " |"]
    lines.append("| --- |" + " ---: | ---: |" * len(zoos) * len(SIZES))
    for name in variants:
        cells = [found.get((zoo, tasks, name)) for tasks in SIZES for zoo in zoos]
        if any(cells):
            values = [f"{100 * e['normalized']:.1f} | {e['alpha']:g}" if e else " | " for e in cells]
            lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def measure(overrides: Sequence[str], variants: Mapping[str, Method], known: set) -> Iterator[dict]:
    """The cells (tasks, variant) of a zoo that are not known."""
    cells = [(tasks, label) for label in variants for tasks in SIZES if (tasks, label) not in known]
    if not cells:
        return
    zoo = ConfiguredZoo(overrides, max(SIZES))
    for tasks, label in track(cells, " ".join(overrides)):
        point = zoo.choose(zoo.merge(variants[label], zoo.models(tasks)))
        yield {"tasks": tasks, "variant": label, "alpha": point.alpha, "normalized": point.mean_normalized}


def main() -> None:
    options = parser(__doc__).parse_args()
    entries = recorded(options.results)
    for zoos, variants in STUDIES:
        for name, overrides in {} if options.table else zoos.items():
            known = {(e["tasks"], e["variant"]) for e in entries if e["zoo"] == name}
            for entry in measure(overrides, variants, known):
                entries.append({"zoo": name, **entry})
                record(options.results, entries[-1])
        print(table(entries, zoos, variants) + "\n")


if __name__ == "__main__":
    main()
