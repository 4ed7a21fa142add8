"""Measures of all layers, and their totals."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import torch
from torch import Tensor

from tsv_exp.analyze.measures import LayerMeasures, measure
from tsv_exp.config import Engine
from tsv_exp.decompositions.build import build_algebra
from tsv_exp.errors import UserError
from tsv_exp.merging.layer import Layer, Weights
from tsv_exp.merging.layer_map import map_layers
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.methods.singular_vectors import components_per_task

SUBSETS = 2_000_000  # more are not looked at one by one


@dataclass(frozen=True)
class Analysis:
    """T tasks: their matrix layers, and the inner products (T, T) of their whole task vectors."""

    tasks: tuple[str, ...]
    layers: tuple[LayerMeasures, ...]
    products: Tensor

    @property
    def interference(self) -> float:
        """STI, summed over all layers."""
        return sum(layer.interference for layer in self.layers)

    @property
    def strength(self) -> float:
        """Σσ, summed over all layers."""
        return sum(layer.strength for layer in self.layers)

    @property
    def relative(self) -> float:
        """STI / Σσ."""
        return self.interference / self.strength if self.strength else 0.0

    @property
    def changed(self) -> tuple[LayerMeasures, ...]:
        """The layers that fine-tuning changed, over which means are computed; all layers if it changed none."""
        return tuple(layer for layer in self.layers if layer.spectra.any()) or self.layers

    @property
    def kinds(self) -> dict[str, list[LayerMeasures]]:
        """The changed layers by type."""
        found: dict[str, list[LayerMeasures]] = {}
        for layer in self.changed:
            found.setdefault(layer.kind, []).append(layer)
        return found

    @property
    def cosines(self) -> Tensor:
        """(T, T): cosine similarity of the whole task vectors."""
        norms = self.products.diagonal().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        return self.products / norms / norms.unsqueeze(1)

    @property
    def pairs(self) -> Tensor:
        """(T, T): STI / Σσ of each pair of tasks alone, summed over all layers."""
        strengths = self.strengths
        whole = strengths + strengths.unsqueeze(1)
        return torch.where(whole > 0, self._sum("pairs") / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0)

    @property
    def strengths(self) -> Tensor:
        """(T,): Σσ of each task, summed over all layers."""
        return self._sum("strengths")

    def overlap(self, side: str) -> Tensor:
        """(T, T): the mean over the changed layers of the overlap `left` or `right`."""
        mean = torch.stack([getattr(layer, side).double().cpu() for layer in self.changed]).mean(0)
        return (mean + mean.mT) / 2  # symmetric but for rounding

    def _sum(self, name: str) -> Tensor:
        return torch.stack([getattr(layer, name).double().cpu() for layer in self.layers]).sum(0)


def analyze(
    base: Weights,
    finetuned: Mapping[str, Weights],
    rank_fraction: float | None = None,
    together: int | None = None,
    *,
    engine: Engine | None = None,
    device: torch.device | str | None = None,
) -> Analysis:
    """Measure the task vectors of models of one base, a layer at a time.

    Args:
        base: the pre-trained weights.
        finetuned: the fine-tuned weights by task.
        rank_fraction: components kept per task as a share of min(m, n); None is floor(min(m, n) / together).
        together: how many tasks will be merged; None is all.
        engine: settings of decompositions, and of the 2-D layers that are not matrices.
        device: where to compute; None is where the base lies.

    Raises:
        UserError: the models don't fit the base, or they have no matrix in common.
    """
    engine = engine or Engine()
    stream = TaskVectors.of(base, finetuned, engine, device)
    computed, merged = build_algebra(engine, stream.compute_device), together or len(finetuned)

    def measured(layer: Layer) -> tuple[LayerMeasures | None, Tensor]:
        flat = layer.deltas.reshape(len(layer.deltas), -1).double()
        found = None
        if layer.matrix:
            k = components_per_task(layer.deltas.shape[1:], merged, rank_fraction)
            found = measure(layer.name, layer.deltas, k, computed)
        return found, (flat @ flat.T).cpu()

    results = list(map_layers(measured, stream.with_progress("measuring"), computed))
    layers = tuple(found for found, _ in results if found is not None)
    if not layers:
        raise UserError("the base has no matrix to analyze (engine.exclude leaves out all 2-D parameters)")
    return Analysis(stream.tasks, layers, sum((product for _, product in results), start=torch.zeros(()).double()))


@dataclass(frozen=True)
class Proposal:
    """Tasks to merge together, and the interference of their pairs relative to their Σσ."""

    tasks: tuple[str, ...]
    score: float


def check_count(count: object, tasks: int) -> None:
    """Check that this number of tasks can be chosen.

    Raises:
        UserError: they cannot.
    """
    if not (isinstance(count, int) and 2 <= count <= tasks):
        raise UserError(f"select={count}: give at least 2, and at most as many as there are tasks: {tasks}")


def propose(analysis: Analysis, count: int) -> list[Proposal]:
    """Every choice of `count` tasks, the least interference first.

    The score is Σ over pairs of their STI / Σ over tasks of their Σσ: for two tasks exactly STI / Σσ of their merge;
    for more it leaves out what three and more tasks do together, so that all subsets can be compared.

    Raises:
        UserError: there are not that many tasks, or too many choices.
    """
    total = len(analysis.tasks)
    check_count(count, total)
    if comb(total, count) > SUBSETS:
        raise UserError(f"select={count}: that is {comb(total, count):,} choices; give fewer tasks")
    chosen = np.array(list(combinations(range(total), count)))
    pairs = sum(layer.pairs.double().cpu() for layer in analysis.layers)
    among, own = torch.as_tensor(pairs).numpy(), analysis.strengths.numpy()
    interference = sum(among[chosen[:, i], chosen[:, j]] for i, j in combinations(range(count), 2))
    scores = interference / np.maximum(own[chosen].sum(1), np.finfo(float).tiny)
    order = np.argsort(scores, kind="stable")
    return [Proposal(tuple(analysis.tasks[i] for i in chosen[at]), float(scores[at])) for at in order]
