"""Ablations of iso_reg on its design seeds, scored on validation images.

    OMP_NUM_THREADS=2 python benchmarks/ablations.py --results ablations.jsonl            measure what is missing
    python benchmarks/ablations.py --results ablations.jsonl --table                      print what was measured

The zoos: the package's base (0) and one pre-trained with seed 1, fine-tuning seed 0, data seed 0. α is chosen
on the reported validation images for every variant, so small differences are not significant.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor
from zoos import Zoo, base_of, parser, record, recorded

from tsv_exp.merging.layer import Weights
from tsv_exp.methods.specification.method import Method
from tsv_exp.runtime.console import track

PARTS = {"attention": "*.attn.*", "mlp": "*.mlp.*", "layer 1": "*resblocks.0.*", "layer 2": "*resblocks.1.*"}


def variant(
    deltas: Tensor,
    inputs: float = 0.5,
    outputs: float = 0.5,
    ridge: float = 0.1,
    margin: float = 0.1,
    power: float | None = None,
    weight: float = 2.0,
) -> Tensor:
    """iso_reg with configurable parts, computed by singular value decompositions in float64.

    Args:
        deltas: (T, m, n).
        inputs: weight of the solution on the input side.
        outputs: weight of the solution on the output side.
        ridge: ridge of the regressions.
        margin: margin of the flattening, σ → σ / √(σ² + margin · mean σ²).
        power: use σ → σ^power instead; 1 does not change the spectrum.
        weight: tasks count by ‖Δ_i‖^−weight.
    """
    taus = [delta.double() for delta in deltas if delta.any()]
    if not taus:
        return torch.zeros_like(deltas[0])
    weights = [float(tau.norm()) ** -weight for tau in taus]
    moment = sum(w * tau @ (tau.T @ tau) for w, tau in zip(weights, taus, strict=True))
    target = torch.zeros_like(taus[0])
    if inputs:
        grams = sum(w * tau.T @ tau for w, tau in zip(weights, taus, strict=True))
        target += inputs * torch.linalg.solve(_regularized(grams, ridge), moment.T).T
    if outputs:
        grams = sum(w * tau @ tau.T for w, tau in zip(weights, taus, strict=True))
        target += outputs * torch.linalg.solve(_regularized(grams, ridge), moment)
    return _flat(target, margin, power).to(deltas.dtype)


def flat_tsv_m(deltas: Tensor) -> Tensor:
    """TSV-M with its spectrum flattened as in iso_reg."""
    from tsv_exp.methods.singular_vectors import tsv_m

    return _flat(tsv_m(deltas).double(), 0.1, None).to(deltas.dtype)


def _regularized(gram: Tensor, ridge: float) -> Tensor:
    return gram + ridge * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)


def _flat(target: Tensor, margin: float, power: float | None) -> Tensor:
    if not target.any():
        return target
    u, s, vh = torch.linalg.svd(target, full_matrices=False)
    flat = s / (s.square() + margin * s.square().mean()).sqrt() if power is None else s**power
    return u * (flat * (flat @ s) / (flat @ flat)) @ vh


def in_part(pattern: str) -> Callable[[str], bool]:
    """Whether a layer belongs to a part of the network."""
    return lambda name: fnmatchcase(name, pattern)


Models = Mapping[str, Weights]


def low_rank(base: Weights, models: Models, rank: int) -> dict[str, Weights]:
    """Every task matrix truncated to its top components, as with LoRA."""

    def cut(start: Tensor, end: Tensor) -> Tensor:
        if start.dim() != 2:
            return end
        u, s, vh = torch.linalg.svd(end - start, full_matrices=False)
        return start + u[:, :rank] * s[:rank] @ vh[:rank]

    return {task: {name: cut(base[name], end) for name, end in model.items()} for task, model in models.items()}


def scaled(base: Weights, models: Models, factors: Mapping[int, float]) -> dict[str, Weights]:
    """The task vectors at these positions times a factor."""
    return {
        task: {name: base[name] + factors.get(i, 1.0) * (end - base[name]) for name, end in model.items()}
        for i, (task, model) in enumerate(models.items())
    }


def own(**params: object) -> Method:
    """A variant as a method."""
    return replace(Method.load("iso_reg"), function=variant, params=params)


VARIANTS: dict[str, Method] = {
    "iso_reg": own(),
    "tsv_m": Method.load("tsv_m"),
    "iso_c": Method.load("iso_c"),
    "iso_cts": Method.load("iso_cts"),
    "input side alone": own(inputs=1.0, outputs=0.0),
    "output side alone": own(inputs=0.0, outputs=1.0),
    **{f"spectrum σ^{p}": own(power=p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)},
    **{f"margin of the flattening {m}": own(margin=m) for m in (0.001, 0.01, 1.0)},
    **{f"ridge of the regression {r}": own(ridge=r) for r in (0.001, 0.01, 1.0)},
    "tasks count by ‖Δ‖^0": own(weight=0.0),
    "tasks count by ‖Δ‖^−1": own(weight=1.0),
    "TSV-M, flattened": replace(Method.load("tsv_m"), function=flat_tsv_m, params={}),
}
PAIR = ("iso_reg", "tsv_m")


def cells() -> list[tuple[str, str, int, str]]:
    """The planned measurements: kind, setting, tasks, variant."""
    wanted = [("parts", "", 8, name) for name in VARIANTS]
    wanted += [("number of tasks", "", tasks, name) for tasks in (2, 4, 14, 20) for name in (*PAIR, "iso_cts")]
    wanted += [("where in the network", part, 8, "iso_reg") for part in PARTS]
    wanted += [("rank of the task matrices", str(rank), 8, name) for rank in (2, 8, 32) for name in PAIR]
    for setting in ("every other task × 3", "one task × 3", "one task × 10", "one task × 0.1"):
        wanted += [("norms", setting, 8, name) for name in PAIR]
    return wanted


def changed(zoo: Zoo, kind: str, setting: str, tasks: int) -> dict[str, Weights]:
    """The models of a cell."""
    models = zoo.models(tasks)
    if kind == "rank of the task matrices":
        return low_rank(zoo.base, models, int(setting))
    if kind == "norms":
        factor = float(setting.rsplit(" ", 1)[1])
        positions = range(0, tasks, 2) if setting.startswith("every") else range(1)
        return scaled(zoo.base, models, dict.fromkeys(positions, factor))
    return models


def measure(zoo: Zoo, kind: str, setting: str, tasks: int, name: str) -> dict[str, object]:
    """The best validation accuracy over α of one cell, of all its tasks and of the first one."""
    models = changed(zoo, kind, setting, tasks)
    method = VARIANTS[name]
    merged = zoo.merge(method, models)
    if kind == "where in the network":  # iso_reg in one part, TSV-M in the others
        rest, chosen = zoo.merge(VARIANTS["tsv_m"], models), in_part(PARTS[setting])
        layers = {name: layer if chosen(name) else rest.layers[name] for name, layer in merged.layers.items()}
        merged = replace(merged, layers=layers)
    point = zoo.choose(merged)
    first = point.accuracy[next(iter(models))]
    return {"alpha": point.alpha, "accuracy": point.mean_accuracy, "first": first}


def table(entries: list[dict]) -> str:
    """One line per cell, the zoos side by side, in percent."""
    zoos = sorted({e["zoo"] for e in entries})
    lines = ["| what | setting | tasks | variant | " + " | ".join(f"{z} | first task | α" for z in zoos) + " |"]
    lines.append("| --- | --- | ---: | --- |" + " ---: |" * 3 * len(zoos))
    for cell in cells():
        found = {e["zoo"]: e for e in entries if tuple(e["cell"]) == cell}
        if found:
            values = []
            for z in zoos:
                e = found.get(z)
                values += (
                    [f"{100 * e['accuracy']:.2f}", f"{100 * e['first']:.1f}", f"{e['alpha']:g}"] if e else [""] * 3
                )
            lines.append(f"| {cell[0]} | {cell[1]} | {cell[2]} | {cell[3]} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--zoos", nargs="+", default=["0", "1"], choices=["0", "1"], help="pre-training seeds")
    options = given.parse_args()
    entries = recorded(options.results)
    for seed in [] if options.table else options.zoos:
        known = {tuple(e["cell"]) for e in entries if e["zoo"] == seed}
        if missing := [cell for cell in cells() if cell not in known]:
            zoo = Zoo(base_of(int(seed), options.bases), finetuning=0, data=0)
            for cell in track(missing, f"zoo {seed}"):
                entries.append({"zoo": seed, "cell": cell, **measure(zoo, *cell)})
                record(options.results, entries[-1])
    print(table(entries))


if __name__ == "__main__":
    main()
