"""Measures the router by likelihood on validation images of the embedded benchmark (docs/router_results.md).

    python benchmarks/router.py --results benchmarks/results/router.jsonl            measure what is missing
    python benchmarks/router.py --results benchmarks/results/router.jsonl --table    print what was measured

The design zoo: the packaged base, fine-tuning seed 0, data seed 2412, validation images only. Every entry has the share
of images whose task is found (`routed`), and the accuracy of TSV-C with task and head unknown (`accuracy`).
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from zoos import Zoo, parser, record, recorded

from tsv_exp.api import merge
from tsv_exp.merging.engine import Merged
from tsv_exp.routing.capture import captured, linear_layers
from tsv_exp.routing.gaussian import Gaussians, fit_gaussians, log_likelihoods
from tsv_exp.routing.subspace import residuals, standardized
from tsv_exp.routing.tokens import Support, supports, token_weights
from tsv_exp.runtime.console import track
from tsv_exp.tasks.task import SplitName

SIZES = (8, 14, 20)
IMAGES = 100  # of each task
EPSILON, FRACTION = 0.3, 0.25  # the default of conf/router/likelihood.yaml
FIXED = (
    "transformer.resblocks.0.mlp.c_fc.weight"  # the MLP of the second-last block, as MASS's configuration for ViT-B-32
)


class Study:
    """A zoo, the layers' inputs for images of every task, and the singular components of its task matrices."""

    def __init__(self, zoo: Zoo, split: SplitName = "validation") -> None:
        self.zoo, self.split = zoo, split
        network = zoo.evaluator.encoder
        matrices = [name for name, weight in zoo.base.items() if weight.dim() == 2]
        self.names = list(linear_layers(network, matrices))
        self.supports: dict[str, Support] = {}
        self.inputs: dict[str, Tensor] = {}
        self.labels = torch.arange(len(zoo.tasks)).repeat_interleave(IMAGES)
        self._capture(network)
        self.components = {name: self._components(name) for name in self.names}

    def _capture(self, network: torch.nn.Module) -> None:
        kept: dict[str, list[Tensor]] = {name: [] for name in self.names}
        for task in self.zoo.tasks:
            batch = self.zoo.model.prepare(self.zoo.model.split(task, self.split).inputs[:IMAGES], torch.device("cpu"))
            if not self.supports:
                self.supports = supports(network, self.names, partial(network, batch[:4]), None)
            receive = lambda name, inputs: kept[name].append(inputs.half())  # noqa: E731
            with torch.inference_mode(), captured(network, self.names, receive):
                network(batch)
        self.inputs = {name: torch.cat(parts) for name, parts in kept.items()}

    def _components(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        deltas = torch.stack([self.zoo.finetuned[task.name][name] - self.zoo.base[name] for task in self.zoo.tasks])
        _, s, vh = torch.linalg.svd(deltas, full_matrices=False)
        return s, vh, deltas.square().sum((1, 2))

    def rank(self, name: str, fraction: float) -> int:
        """The components kept per task."""
        return max(1, int(fraction * min(self.zoo.base[name].shape) + 1e-9))

    def wide(self, name: str) -> bool:
        """Whether a layer has at least as many outputs as inputs."""
        m, n = self.zoo.base[name].shape
        return m >= n

    def images(self, name: str, tasks: int) -> Tensor:
        """A layer's inputs (N, L, n) for the images of the first tasks."""
        return self.inputs[name][self.labels < tasks]

    def scores(
        self,
        name: str,
        tasks: int,
        epsilon: float,
        fraction: float,
        every_token: bool = False,
        tail: bool = False,
        of: int | None = None,
    ) -> Tensor:
        """Log-likelihoods (N, T) of the tasks' images (or those of the first `of` tasks) at one layer.

        `tail` spreads the dropped variance evenly over all other directions.
        """
        s, vh, squares = (part[:tasks] for part in self.components[name])
        r = self.rank(name, fraction)
        gaussians = fit_gaussians(s[:, :r], vh[:, :r], squares, epsilon)
        if tail:
            gaussians = with_tail(s[:, :r], vh[:, :r], squares, epsilon)
        inputs, support = self.images(name, of or tasks), "all" if every_token else self.supports[name]
        if support == "first":
            inputs = inputs[:, :1]
        found = []
        for part in inputs.split(250):
            weights = token_weights((part.shape[0], part.shape[1]), None, "all", part.device)
            found.append(log_likelihoods(part, weights, gaussians))
        return torch.cat(found)


def with_tail(s: Tensor, vh: Tensor, squares: Tensor, epsilon: float) -> Gaussians:
    """Gaussians of probabilistic PCA: S_i = V (Λ + ε) Vᵀ + (τ_i + ε) (I − V Vᵀ), τ_i the mean variance outside of V."""
    r, n = vh.shape[1:]
    values = n * s.double().square() / squares.double().unsqueeze(1)
    outside = (n - values.sum(1)).clamp_min(0) / max(1, n - r) + epsilon
    above = (values + epsilon - outside.unsqueeze(1)).clamp_min(0)
    scale = (above / (outside.unsqueeze(1) * (above + outside.unsqueeze(1)))).sqrt()
    logdet = (above / outside.unsqueeze(1)).log1p().sum(1) + n * outside.log()
    return Gaussians((scale.unsqueeze(2) * vh).to(vh), logdet.to(vh), outside.to(vh))


class Told:
    """TSV-C on the first tasks: which validation images are right, told the task."""

    def __init__(self, study: Study, tasks: int) -> None:
        self.merged: Merged = merge(study.zoo.base, study.zoo.models(tasks), "tsv_c")
        found = [study.zoo.evaluator.correct(self.merged, 1.0, task, study.split) for task in self.merged.tasks]
        self.correct = torch.cat([torch.from_numpy(right)[:IMAGES] for right in found if right is not None])


Layers = Callable[[str], bool]


def combined(parts: Mapping[str, Tensor], standardize: bool) -> Tensor:
    """The sum over layers (N, T)."""
    return torch.stack([standardized(part) if standardize else part for part in parts.values()]).sum(0)


def outcome(study: Study, told: Told, scores: Tensor, tasks: int) -> dict[str, float]:
    """Share of images whose task is found, and accuracy with task and head unknown."""
    right = scores.argmax(1) == study.labels[study.labels < tasks]
    return {"routed": right.double().mean().item(), "accuracy": (right & told.correct).double().mean().item()}


def variants(study: Study, tasks: int) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Name and scores of everything that is compared; all but what a name says is the default."""

    def parts(layers: Layers, **changes: Any) -> dict[str, Tensor]:
        given = {"epsilon": EPSILON, "fraction": FRACTION} | changes
        return {name: study.scores(name, tasks, **given) for name in study.names if layers(name)}

    def summed(layers: Layers = study.wide, standardize: bool = False, **changes: Any) -> Callable[[], Tensor]:
        return lambda: combined(parts(layers, **changes), standardize)

    def everything(name: str) -> bool:
        return True

    yield "likelihood", summed()
    yield "standardized", summed(standardize=True)
    yield "all layers", summed(everything)
    yield "all layers, standardized", summed(everything, standardize=True)
    yield "all tokens", summed(every_token=True)
    yield "all tokens, all layers, standardized", summed(everything, standardize=True, every_token=True)
    for epsilon in (0.01, 0.03, 0.1, 1.0):
        yield f"ε = {epsilon:g}", summed(epsilon=epsilon)
    for share in (1 / 32, 1 / 16, 1 / 8, 1 / 2, 1):
        yield f"rank fraction {share:g}", summed(fraction=share)
    for share in (1 / 32, 1 / 8, 1 / 4):
        yield f"rank fraction {share:g}, tail spread", summed(fraction=share, tail=True)
    yield "components of TSV-C", summed(fraction=1 / tasks)
    for one in study.names:
        yield f"only {one}", summed(one.__eq__)
    for one in filter(study.wide, study.names):
        yield (
            f"without {one}",
            summed({name for name in study.names if study.wide(name)}.difference({one}).__contains__),
        )
    for one in study.names:
        yield f"MASS {one}", partial(mass, study, one, tasks)


def mass(study: Study, name: str, tasks: int) -> Tensor:
    """The scores (N, T) of MASS at one layer: class token, floor(min(m, n) / T) right singular vectors."""
    vectors = study.components[name][1][:tasks, : min(study.zoo.base[name].shape) // tasks]
    return -residuals(study.images(name, tasks)[:, 0], vectors)


def measure(study: Study, results: Any, entries: list[dict[str, Any]]) -> None:
    """Append what is missing."""
    known = {(entry["tasks"], entry["name"]) for entry in entries}
    for tasks in SIZES:
        missing = [(name, make) for name, make in variants(study, tasks) if (tasks, name) not in known]
        told = Told(study, tasks) if missing else None
        for name, make in track(missing, f"{tasks} tasks"):
            assert told is not None
            found = outcome(study, told, make(), tasks)
            entry = {"tasks": tasks, "name": name, **found, "told": told.correct.double().mean().item()}
            entries.append(entry)
            record(results, entry)


def table(entries: list[dict[str, Any]]) -> str:
    """Percent of images whose task is found / accuracy of TSV-C with task and head unknown."""
    found = {(entry["name"], entry["tasks"]): entry for entry in entries}
    lines = [
        "| variant | " + " | ".join(f"{tasks} tasks" for tasks in SIZES) + " |",
        "| --- |" + " ---: |" * len(SIZES),
    ]
    for name in dict.fromkeys(entry["name"] for entry in entries):
        cells = [
            f"{100 * e['routed']:.1f} / {100 * e['accuracy']:.1f}" if (e := found.get((name, tasks))) else ""
            for tasks in SIZES
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    told = {entry["tasks"]: entry["told"] for entry in entries}
    lines.append(
        "| TSV-C told the task | " + " | ".join(f"100 / {100 * told[t]:.1f}" for t in SIZES if t in told) + " |"
    )
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__).parse_args()
    entries = recorded(options.results)
    if not options.table:
        measure(Study(Zoo(None, 0, 2412)), options.results, entries)
    print(table(entries))


if __name__ == "__main__":
    main()
