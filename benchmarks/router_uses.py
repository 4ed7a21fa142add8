"""Measures other uses of the router on validation images of the embedded benchmark (docs/router_results.md).

    python benchmarks/router_uses.py --results benchmarks/results/router_uses.jsonl            measure what is missing
    python benchmarks/router_uses.py --results benchmarks/results/router_uses.jsonl --table    print what was measured

The design zoo and the default router, as in router.py: batches of one task, calibration, abstention, unknown inputs,
the confidence of the head, mixed models, MASS with all of its steps, and tasks with the same inputs.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from router import EPSILON, FIXED, FRACTION, IMAGES, SIZES, Study, Told, combined, mass
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import cross_entropy
from zoos import Zoo, parser, record, recorded

from tsv_exp.api import merge
from tsv_exp.config import Engine
from tsv_exp.finetuning.training import finetune
from tsv_exp.merging.engine import Merged
from tsv_exp.models.heads import frozen_head_logits
from tsv_exp.routing.subspace import standardized
from tsv_exp.runtime.console import track

Entry = dict[str, float]
BETA = 30.0  # softmax(β · scores) is calibrated (`calibration`)


def scores(study: Study, tasks: int, others: int | None = None) -> Tensor:
    """The default router's scores (N, T) of the images of its tasks, or of the first `others` tasks."""
    return combined(
        {n: study.scores(n, tasks, EPSILON, FRACTION, of=others) for n in filter(study.wide, study.names)}, False
    )


def batches(study: Study, tasks: int) -> Entry:
    """Share of batches of one task whose task is found."""
    found, own = scores(study, tasks), study.labels[: tasks * IMAGES]
    return {
        f"{size} images": (found.view(-1, size, tasks).sum(1).argmax(1) == own[::size]).double().mean().item()
        for size in (1, 2, 5, 10, 20)
    }


def calibration(study: Study, tasks: int) -> Entry:
    """The factor β of softmax(β · scores) with the best likelihood on even images; expected error on the odd ones."""
    found, own = scores(study, tasks), study.labels[: tasks * IMAGES]
    grid = 10 ** torch.linspace(0, 4, 81)
    losses = torch.stack([cross_entropy(beta * found[::2], own[::2]) for beta in grid])
    beta = float(grid[losses.argmin()])
    probability, chosen = torch.softmax(beta * found[1::2], 1).max(1)
    right = chosen == own[1::2]
    edges = torch.linspace(0, 1, 16).tolist()
    error = 0.0
    for low, high in pairwise(edges):
        inside = (probability > low) & (probability <= high)
        if inside.any():
            gap = float(probability[inside].mean()) - float(right[inside].double().mean())
            error += float(inside.double().mean()) * abs(gap)
    return {"β": beta, "expected calibration error": error, "mean confidence": float(probability.mean())}


def abstention(study: Study, tasks: int) -> Entry:
    """Accuracy with task and head unknown of the images with the largest gap between the two best scores."""
    found, told = scores(study, tasks), Told(study, tasks)
    best = found.topk(2, 1)
    right = (best.indices[:, 0] == study.labels[: tasks * IMAGES]) & told.correct
    order = (best.values[:, 0] - best.values[:, 1]).argsort(descending=True)
    return {
        f"{100 * share:g} % answered": right[order[: int(share * len(order))]].double().mean().item()
        for share in (1, 0.95, 0.9, 0.8)
    }


def unknown(study: Study, tasks: int) -> Entry:
    """Area under the ROC curve: images of the router's tasks against those of all others."""
    found = scores(study, tasks, len(study.zoo.tasks))
    known = (study.labels < tasks).numpy()
    best = found.topk(2, 1).values
    measures = {"best score": best[:, 0], "gap": best[:, 0] - best[:, 1]}
    return {name: float(roc_auc_score(known, values.numpy())) for name, values in measures.items()}


class Heads:
    """Logits of TSV-C's models for chosen images."""

    def __init__(self, study: Study, merged: Merged) -> None:
        self.study, self.merged = study, merged
        splits = [study.zoo.model.split(task, study.split) for task in study.zoo.tasks]
        self.images = torch.cat([split.inputs[:IMAGES] for split in splits])
        self.labels = torch.cat([split.labels[:IMAGES] for split in splits])

    def logits(self, vector: dict[str, Tensor], heads: list[int], rows: Tensor) -> list[Tensor]:
        """The logits (R, C) of each head for these images, by θ_pre plus a task vector."""
        zoo = self.study.zoo
        network = zoo.model.encoder()
        network.load_state_dict({name: w + vector.get(name, torch.zeros(())) for name, w in zoo.base.items()})
        with torch.inference_mode():
            features = network(zoo.model.prepare(self.images[rows], torch.device("cpu")))
        return [frozen_head_logits(features, zoo.model.head(zoo.tasks[head])) for head in heads]

    def of(self, task: int, rows: Tensor) -> Tensor:
        """The logits (R, C) of a task's model and head."""
        return self.logits(self.merged.vector(self.merged.tasks[task]), [task], rows)[0]


def accuracy(study: Study, chosen: Tensor, answers: Tensor, classes: Tensor) -> Entry:
    """Share of images whose task is found, and accuracy."""
    found = chosen == study.labels[: len(chosen)]
    right = found & (answers == classes[: len(chosen)])
    return {"routed": found.double().mean().item(), "accuracy": right.double().mean().item()}


def confident(study: Study, tasks: int, candidates: int, beta: float) -> Entry:
    """The most probable of the router's best tasks, by β · score + log of the head's largest probability."""
    heads = Heads(study, Told(study, tasks).merged)
    found = scores(study, tasks)
    best = found.topk(candidates, 1).indices
    total = torch.full_like(found, -torch.inf)
    answers = torch.zeros(found.shape, dtype=torch.int64)
    for task in range(tasks):
        rows = (best == task).any(1).nonzero().flatten()
        if len(rows):
            probability, answer = torch.softmax(heads.of(task, rows), 1).max(1)
            total[rows, task] = beta * found[rows, task] + probability.log()
            answers[rows, task] = answer
    chosen = total.argmax(1)
    return accuracy(study, chosen, answers.gather(1, chosen.unsqueeze(1)).squeeze(1), heads.labels)


def mixed(study: Study, tasks: int, gap: float) -> Entry:
    """Images whose two best scores are closer than `gap`: the mean of both models, the head with the largest logit."""
    told = Told(study, tasks)
    heads, found = Heads(study, told.merged), scores(study, tasks)
    best = found.topk(2, 1)
    close = (best.values[:, 0] - best.values[:, 1] < gap).nonzero().flatten()
    pairs = {tuple(sorted(pair)) for pair in best.indices[close].tolist()}
    classes, right = heads.labels, torch.zeros(len(found), dtype=torch.bool)
    for first, second in pairs:
        of_pair = best.indices[close].sort(1).values == torch.tensor([first, second])
        rows = close[of_pair.all(1)]
        one, other = (told.merged.vector(told.merged.tasks[task]) for task in (first, second))
        both = heads.logits({name: (one[name] + other[name]) / 2 for name in one}, [first, second], rows)
        chosen = torch.stack([logits.amax(1) for logits in both], 1).argmax(1)
        answers = torch.stack([logits.argmax(1) for logits in both], 1).gather(1, chosen.unsqueeze(1)).squeeze(1)
        right[rows] = (torch.tensor([first, second])[chosen] == study.labels[rows]) & (answers == classes[rows])
    single = (best.indices[:, 0] == study.labels[: len(found)]) & told.correct
    return {
        "share": len(close) / len(found),
        "accuracy of mixed models": right[close].double().mean().item(),
        "accuracy of the best one": single[close].double().mean().item(),
    }


def whole_mass(study: Study, tasks: int, layer: str) -> Entry:
    """All steps of MASS: up to three tasks above a weight of 0.2, merged by TSV-M; the head with the largest logit."""
    weights = torch.softmax(standardized(mass(study, layer, tasks)), 1)
    top = weights.topk(3, 1)
    chosen = [
        tuple(sorted(task for task, w in zip(*pair, strict=True) if w > 0.2)) or (pair[0][0],)
        for pair in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]
    models, engine = study.zoo.models(tasks), Engine(cache="memory")
    heads = Heads(study, Told(study, tasks).merged)
    found, answers = torch.zeros(len(chosen), dtype=torch.int64), torch.zeros(len(chosen), dtype=torch.int64)
    for group in track(sorted(set(chosen)), "MASS"):
        rows = torch.tensor([row for row, own in enumerate(chosen) if own == group])
        few = {study.zoo.tasks[task].name: models[study.zoo.tasks[task].name] for task in group}
        merged = merge(study.zoo.base, few, "tsv_m", engine=engine, rank_fraction=1 / tasks)
        logits = heads.logits(merged.vector(), list(group), rows)
        best = torch.stack([each.amax(1) for each in logits], 1).argmax(1)
        found[rows] = torch.tensor(group)[best]
        answers[rows] = torch.stack([each.argmax(1) for each in logits], 1).gather(1, best.unsqueeze(1)).squeeze(1)
    return {"groups": len(set(chosen)), **accuracy(study, found, answers, heads.labels)}


def same_inputs(study: Study, tasks: int) -> Entry:
    """The first task again with its classes in reverse order, as one more task: the same images, other labels."""
    zoo = study.zoo
    task = zoo.tasks[0]
    head = zoo.model.head(task).flip(0)
    encoder = zoo.model.encoder()

    def loss(network: torch.nn.Module, batch: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(frozen_head_logits(network(batch), head), labels)

    finetune(encoder, loss, zoo.model.prepare, zoo.model.split(task, "train"), zoo.model.finetune, 0)
    again = replace(task, name=f"{task.name} reversed")
    other = Zoo.__new__(Zoo)
    other.__dict__ |= zoo.__dict__ | {
        "tasks": [*zoo.tasks[:tasks], again],
        "finetuned": {**zoo.finetuned, again.name: encoder.state_dict()},
    }
    extended = Study(other, study.split)
    found = scores(extended, tasks + 1)
    own = found[:IMAGES].argmax(1)
    return {
        "sent to the task": (own == 0).double().mean().item(),
        "to the one with the same images": (own == tasks).double().mean().item(),
        "other tasks found": (found[IMAGES : tasks * IMAGES].argmax(1) == study.labels[IMAGES : tasks * IMAGES])
        .double()
        .mean()
        .item(),
    }


def uses(study: Study, tasks: int) -> Iterator[tuple[str, Callable[[], Entry]]]:
    """Name and measurement."""
    yield "batches of one task", partial(batches, study, tasks)
    yield "calibration", partial(calibration, study, tasks)
    yield "abstention", partial(abstention, study, tasks)
    if tasks < len(study.zoo.tasks):
        yield "unknown inputs", partial(unknown, study, tasks)
    yield "two candidates and the head's confidence", partial(confident, study, tasks, 2, BETA)
    if tasks == min(SIZES):
        yield "most confident of all models", partial(confident, study, tasks, tasks, 0.0)
        yield "all models, score and confidence", partial(confident, study, tasks, tasks, BETA)
        yield "mixed models", partial(mixed, study, tasks, math.log(9) / BETA)
        yield "MASS, all steps, fixed layer", partial(whole_mass, study, tasks, FIXED)
        yield "MASS, all steps, best layer", partial(whole_mass, study, tasks, FIXED.replace("0.mlp", "1.mlp"))
        yield "same inputs, other labels", partial(same_inputs, study, tasks)


def main() -> None:
    options = parser(__doc__).parse_args()
    entries: list[dict[str, Any]] = recorded(options.results)
    known = {(entry["tasks"], entry["name"]) for entry in entries}
    if not options.table:
        study = Study(Zoo(None, 0, 2412))
        for tasks in SIZES:
            for name, make in uses(study, tasks):
                if (tasks, name) not in known:
                    entries.append({"tasks": tasks, "name": name, **make()})
                    record(options.results, entries[-1])
    for entry in entries:
        figures = ", ".join(f"{key} {value:.4g}" for key, value in entry.items() if key not in ("tasks", "name"))
        print(f"{entry['name']}, {entry['tasks']} tasks: {figures}")


if __name__ == "__main__":
    main()
