"""Why iso_reg works: what a merged layer does to each task's own input and output directions (docs/iso_reg.png).

    python benchmarks/why.py --tasks 8 --out docs/iso_reg.png

On the zoo of the package's base (fine-tuning seed 0, data seed 0). Every merged model is scaled
so that it responds to the tasks' own directions as strongly as their models do.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from zoos import Zoo

from tsv_exp.config import Engine
from tsv_exp.evaluation.alpha.data_free import all_responses
from tsv_exp.layers import LowRank
from tsv_exp.merging.engine import Merged
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.singular_vectors import tsv_c
from tsv_exp.methods.specification.method import Method
from tsv_exp.report.plots.style import PALETTE, figure, line_styles, styled

METHODS = {"task_arithmetic": "sum of the task matrices", "tsv_m": "TSV-M", "iso_c": "Iso-C", "iso_reg": "iso_reg"}
LAYER = "transformer.resblocks.1.mlp.c_fc.weight"


def kept(merged: Tensor, tasks: LowRank) -> Tensor:
    """uᵀ M v / σ for every task's own components (T, k): 1 is the response of the task's own model."""
    return torch.einsum("tmk,mn,tkn->tk", tasks.u, merged, tasks.vh) / tasks.s


def recorded(zoo: Zoo, task: str) -> dict[str, Tensor]:
    """Inputs of each matrix of the base on a task's validation images: layer -> (tokens, n)."""
    encoder = zoo.model.encoder()
    seen: dict[str, Tensor] = {}
    entrances = {"attn": "attn.in_proj_weight", "mlp.c_fc": "mlp.c_fc.weight", "mlp.c_proj": "mlp.c_proj.weight"}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: seen.__setitem__(name, given[0].detach().flatten(0, -2))

    for name, module in encoder.named_modules():
        for ending, weight in entrances.items():
            if name.endswith("." + ending):
                module.register_forward_pre_hook(watch(name.removesuffix(ending) + weight))
    images, _ = next(zoo.model.split(zoo.model.catalogue()[task], "validation").batches(100))
    with torch.no_grad():
        encoder(zoo.model.prepare(images, torch.device("cpu")))
    return seen


def agreement(merged: Tensor, delta: Tensor, inputs: Tensor) -> float:
    """The cosine of M x and Δ_i x over a task's real inputs x (tokens, n): 1 is the own model's response."""
    varying = inputs - inputs.mean(0)  # the mean over all images does not distinguish classes
    ours, own = varying @ merged.mT, varying @ delta.mT
    return float((ours * own).sum() / ours.norm() / own.norm())


def crosstalk(merged: Tensor, tasks: LowRank) -> float:
    """Entries of Uᵀ M V between different tasks, relative to the entries within tasks (entrywise L1)."""
    table = torch.einsum("tmk,mn,sln->tksl", tasks.u, merged, tasks.vh).abs().sum((1, 3))
    return float((table.sum() - table.diagonal().sum()) / tasks.s.sum())


def equally_strong(merged: Merged, vectors: TaskVectors) -> float:
    """The scale at which merged and task matrices respond equally strongly to the tasks' directions."""
    found = all_responses(merged, vectors)
    return math.sqrt(found.own / found.theirs)


class Measured(NamedTuple):
    """Per method: what is kept in one layer (T, k); agreement per layer and task; cross-talk per layer."""

    keeps: dict[str, Tensor]
    agreements: dict[str, list[float]]
    talks: dict[str, list[float]]


def measure(zoo: Zoo, tasks: int) -> Measured:
    """The three views of every method."""
    models = zoo.models(tasks)
    vectors = TaskVectors(zoo.base, models, Engine().excluded)
    own = {name: tsv_c(vectors.layer(name).deltas) for name in vectors.names if vectors.is_matrix(name)}
    own = {name: factors for name, factors in own.items() if factors.s.all() and factors.s.numel()}
    inputs = [recorded(zoo, task) for task in models]
    found = Measured({}, {}, {})
    for name in METHODS:
        merged = zoo.merge(Method.load(name), models)
        scale = equally_strong(merged, vectors)
        vector = {layer: scale * tau for layer, tau in merged.vector().items()}
        found.keeps[name] = kept(vector[LAYER], own[LAYER])
        found.talks[name] = [crosstalk(vector[layer], own[layer]) for layer in own]
        found.agreements[name] = [
            agreement(vector[layer], vectors.layer(layer).deltas[i], seen[layer])
            for i, seen in enumerate(inputs)
            for layer in seen
        ]
    return found


def draw(path: Path, found: Measured) -> None:
    """Draw the plot."""
    with styled():
        fig = figure(12, 4.2)
        left, middle, right = fig.subplots(1, 3)
        looks = line_styles(list(METHODS))
        for name, per_task in found.keeps.items():
            rank = torch.arange(1, per_task.shape[1] + 1)
            low, mid, high = per_task.quantile(torch.tensor([0.25, 0.5, 0.75]), dim=0)
            left.plot(rank, mid, label=METHODS[name], **{**looks[name], "marker": ""})
            left.fill_between(rank, low, high, color=looks[name]["color"], alpha=0.15, linewidth=0)
        left.axhline(1.0, color=PALETTE[6], linestyle=":", linewidth=1)
        left.set_xlabel("a task's own singular direction, strongest first")
        left.set_title("own output on own input: uᵀMv / σ")
        left.legend()
        bars(middle, found.agreements, looks)
        middle.set_title("real images: cosine of Mx and Δx")
        bars(right, found.talks, looks)
        right.set_title("between tasks: |UᵀMV| off the own blocks / Σσ")
        fig.savefig(path, dpi=110)


def bars(axes: Axes, values: Mapping[str, list[float]], looks: Mapping[str, Mapping[str, Any]]) -> None:
    """The mean of every method, with every single value as a dot."""
    for at, (name, points) in enumerate(values.items()):
        axes.bar(at, statistics.fmean(points), color=looks[name]["color"])
        spread = torch.linspace(-0.3, 0.3, len(points))
        axes.scatter(at + spread, points, s=6, color=PALETTE[6], alpha=0.7, zorder=3)
    axes.set_xticks(range(len(values)), [METHODS[name].replace(" of the ", " of the\n") for name in values])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = measure(Zoo(None, finetuning=0, data=0), options.tasks)
    for name in METHODS:
        agree, talk = (statistics.fmean(values[name]) for values in (found.agreements, found.talks))
        print(f"{name}: kept {found.keeps[name].median():.3f}, agreement {agree:.3f}, between tasks {talk:.2f}")
    draw(options.out, found)


if __name__ == "__main__":
    main()
