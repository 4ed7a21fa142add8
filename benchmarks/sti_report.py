"""The study of interference as Markdown: correlations, selections, and conclusions that follow from the results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rank_correlation import correlation, shown

METHODS = ("task_arithmetic", "ties", "tsv_m")
STEPS = 10  # values of α: every third of the method's own grid
TEMPLATE = Path(__file__).with_suffix("").with_name("sti_study.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Measurement:
    """One subset of tasks: predictors, and the loss of normalized test accuracy per method."""

    tasks: tuple[str, ...]
    kind: str  # random, or selected by interference
    sti: float  # STI / Σσ
    pairs: float  # the score of `select`
    cosine: float  # mean cosine similarity of pairs
    loss: dict[str, float]


def correlations(found: Sequence[Measurement]) -> list[list[str]]:
    """Rows: the sizes, all pooled, all pooled within sizes; columns: predictors by method."""
    sizes = np.array([len(m.tasks) for m in found])
    rows = []
    for label in (*map(str, np.unique(sizes)), "pooled", "pooled, within sizes"):
        chosen = [i for i, size in enumerate(sizes) if str(size) == label or not label.isdigit()]
        row = [label, str(len(chosen))]
        for method in METHODS:
            y = np.array([found[i].loss[method] for i in chosen])
            x = np.array([found[i].sti for i in chosen])
            row.append(shown(correlation(x, y, sizes[chosen], label == "pooled, within sizes")))
        rows.append(row)
    return rows


def predictors(found: Sequence[Measurement]) -> list[list[str]]:
    """Rows: predictors; columns: methods; pooled within sizes."""
    sizes = np.array([len(m.tasks) for m in found])
    rows = []
    for label, value in (("STI / Σσ", "sti"), ("STI / Σσ of the pairs", "pairs"), ("mean cosine similarity", "cosine")):
        x = np.array([getattr(m, value) for m in found])
        losses = [np.array([m.loss[method] for m in found]) for method in METHODS]
        rows.append([label, *(shown(correlation(x, y, sizes, True)) for y in losses)])
    return rows


def selections(found: Sequence[Measurement]) -> list[list[str]]:
    """Rows: the sizes; per method the loss of the selected tasks, the mean of random ones, how many it beats."""
    rows = []
    for chosen in (m for m in found if m.kind == "selected"):
        others = [m for m in found if m.kind == "random" and len(m.tasks) == len(chosen.tasks)]
        row = [str(len(chosen.tasks)), ", ".join(chosen.tasks)]
        for method in METHODS:
            losses = [m.loss[method] for m in others]
            beaten = sum(loss > chosen.loss[method] for loss in losses)
            row.append(f"{100 * chosen.loss[method]:.1f} / {100 * np.mean(losses):.1f} ({beaten} of {len(losses)})")
        rows.append(row)
    return rows


def conclusions(found: Sequence[Measurement]) -> str:
    """The conclusions, as sentences derived from the results."""
    random_ones = [m for m in found if m.kind == "random"]
    sizes, x = np.array([len(m.tasks) for m in random_ones]), np.array([m.sti for m in random_ones])
    lines = []
    for method in METHODS:
        value = correlation(x, np.array([m.loss[method] for m in random_ones]), sizes, True)
        says = "more interference goes with more loss" if value[1] > 0 else "more interference goes with less loss"
        verdict = says if value[1] > 0 or value[2] < 0 else "no correlation is distinguishable from chance"
        chosen = [m for m in found if m.kind == "selected"]
        gains = [
            np.mean([m.loss[method] for m in random_ones if len(m.tasks) == len(one.tasks)]) - one.loss[method]
            for one in chosen
        ]
        lines.append(
            f"- `{method}`: beyond the number of tasks, {verdict} ({shown(value)}). Tasks selected by interference "
            f"lose {100 * np.mean(gains):.1f} percentage points less than random ones on average over the sizes, "
            f"and less than their mean in {sum(gain > 0 for gain in gains)} of {len(gains)} sizes."
        )
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def report(found: Sequence[Measurement], settings: Mapping[str, Any]) -> str:
    """The study as Markdown."""
    random_ones, methods = [m for m in found if m.kind == "random"], list(METHODS)
    return TEMPLATE.format(
        **settings,
        count=len(random_ones),
        steps=STEPS,
        correlations=table(["tasks", "subsets", *methods], correlations(random_ones)),
        predictors=table(["predictor", *methods], predictors(random_ones)),
        conclusions=conclusions(found),
        selections=table(["tasks", "selected", *methods], selections(found)),
    )
