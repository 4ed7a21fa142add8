"""Why iso_reg works: what a merged layer does to each task's own input and output directions (docs/iso_reg.png).

    python benchmarks/why.py --tasks 8 --out docs/iso_reg.png

On the zoo of the package's base (fine-tuning seed 0, data seed 0). Every merged model is scaled by `alpha=data_free`.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from zoos import Zoo

from tsv_exp.config import Engine
from tsv_exp.data_free import response_scale
from tsv_exp.layers import LowRank
from tsv_exp.method import Method
from tsv_exp.methods import tsv_c
from tsv_exp.report.style import PALETTE, figure, line_styles, styled
from tsv_exp.task_vectors import TaskVectors

METHODS = {"task_arithmetic": "sum of the task matrices", "tsv_m": "TSV-M", "iso_c": "Iso-C", "iso_reg": "iso_reg"}
LAYER = "transformer.resblocks.1.mlp.c_fc.weight"


def kept(merged: Tensor, tasks: LowRank) -> Tensor:
    """uᵀ M v / σ of every task's own components (T, k): 1 is what the task's own model does."""
    return torch.einsum("tmk,mn,tkn->tk", tasks.u, merged, tasks.vh) / tasks.s


def deviation(merged: Tensor, tasks: LowRank) -> Tensor:
    """‖M v − Δ_i v‖ / σ on every task's own inputs (T, k): 0 is what the task's own model does, 1 no model at all."""
    image = torch.einsum("mn,tkn->tmk", merged, tasks.vh)
    return (image - tasks.u * tasks.s.unsqueeze(1)).norm(dim=1) / tasks.s


def crosstalk(merged: Tensor, tasks: LowRank) -> float:
    """Entries of Uᵀ M V between different tasks, as a share of what each task has for itself (entrywise L1)."""
    table = torch.einsum("tmk,mn,sln->tksl", tasks.u, merged, tasks.vh).abs().sum((1, 3))
    return float((table.sum() - table.diagonal().sum()) / tasks.s.sum())


def measured(zoo: Zoo, tasks: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, float]]]:
    """Per method: what is kept and the deviation in one layer (T, k), and the cross-talk of every layer."""
    models = zoo.models(tasks)
    vectors = TaskVectors(zoo.base, models, tuple(Engine().exclude))
    own = {name: tsv_c(vectors.layer(name).deltas) for name in vectors.names if vectors.is_matrix(name)}
    own = {name: factors for name, factors in own.items() if factors.s.all() and factors.s.numel()}
    merges = {}
    for name in METHODS:
        merged = zoo.merge(Method.load(name), models)
        scale = response_scale(merged, vectors)
        merges[name] = {layer: scale * tau for layer, tau in merged.vector().items()}
    return (
        {name: kept(vector[LAYER], own[LAYER]) for name, vector in merges.items()},
        {name: deviation(vector[LAYER], own[LAYER]) for name, vector in merges.items()},
        {name: {layer: crosstalk(vector[layer], own[layer]) for layer in own} for name, vector in merges.items()},
    )


def draw(
    path: Path, keeps: Mapping[str, Tensor], errors: Mapping[str, Tensor], talks: Mapping[str, Mapping[str, float]]
) -> None:
    """The picture."""
    with styled():
        fig = figure(12, 4.2)
        left, middle, right = fig.subplots(1, 3)
        looks = line_styles(list(METHODS))
        for axes, values, ideal in ((left, keeps, 1.0), (middle, errors, 0.0)):
            for name, per_task in values.items():
                rank = torch.arange(1, per_task.shape[1] + 1)
                low, mid, high = per_task.quantile(torch.tensor([0.25, 0.5, 0.75]), dim=0)
                axes.plot(rank, mid, label=METHODS[name], **{**looks[name], "marker": ""})
                axes.fill_between(rank, low, high, color=looks[name]["color"], alpha=0.15, linewidth=0)
            axes.axhline(ideal, color=PALETTE[6], linestyle=":", linewidth=1)
            axes.set_xlabel("a task's own singular direction, strongest first")
        left.set_title("own output on own input: uᵀMv / σ")
        left.legend()
        middle.set_title("deviation on own input: ‖Mv − Δv‖ / σ")
        middle.axhline(1.0, color=PALETTE[6], linestyle="--", linewidth=1)
        shares = {name: torch.tensor(list(layers.values())) for name, layers in talks.items()}
        right.bar(
            [METHODS[name].replace(" of the ", " of the\n") for name in shares],
            [float(value.mean()) for value in shares.values()],
            yerr=[float(value.std()) for value in shares.values()],
            color=[looks[name]["color"] for name in shares],
        )
        right.set_title("between tasks: |UᵀMV| off the own blocks / Σσ")
        fig.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    keeps, errors, talks = measured(Zoo(None, finetuning=0, data=0), options.tasks)
    for name in METHODS:
        talk = sum(talks[name].values()) / len(talks[name])
        print(f"{name}: kept {keeps[name].median():.3f}, deviation {errors[name].median():.3f}, between {talk:.3f}")
    draw(options.out, keeps, errors, talks)


if __name__ == "__main__":
    main()
