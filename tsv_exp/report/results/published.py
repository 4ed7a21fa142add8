"""Published results, by family of checkpoints (published.yaml)."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Any

import yaml


@cache
def _data() -> Any:
    return yaml.safe_load(files("tsv_exp.report.results").joinpath("published.yaml").read_text(encoding="utf-8"))


def families() -> tuple[str, ...]:
    """The families of checkpoints with published results."""
    return tuple(_data()["families"])


def alpha_remark(family: str) -> str:
    """A remark for an α chosen for this family's checkpoints."""
    return str(_data()["families"].get(family, {}).get("alpha", ""))


def published(
    family: str, model: str, tasks: Sequence[str], method: str, params: Mapping[str, Any]
) -> dict[str, float]:
    """Published accuracies (percent) by task, "average" and "normalized" if published; other values are absent."""
    data = _data()
    theirs = {"before": None, "after": None} | data["params"].get(method, {})
    if any((params.get(name, value) or None) != value for name, value in theirs.items()):
        return {}
    source = data["families"].get(family, {})
    everywhere = source.get("every_set", {}).get(model, {}).get(method, {})
    figures = {task: everywhere[task] for task in tasks if task in everywhere}
    if set(tasks) == set(source.get("order", data["order"])[: len(tasks)]):
        figures |= source.get("sets", {}).get(model, {}).get(len(tasks), {}).get(method, {})
    return figures


def averages(family: str, model: str, tasks: Sequence[str], figures: Mapping[str, float]) -> dict[str, float]:
    """The "average" and "normalized" one that follow from published figures of single tasks, if all were published."""
    finetuned = published(family, model, tasks, "individual", {})
    found = {}
    if figures.keys() >= set(tasks):
        found["average"] = fmean(figures[task] for task in tasks)
        if finetuned.keys() >= set(tasks):
            found["normalized"] = 100 * fmean(figures[task] / finetuned[task] for task in tasks)
    return found


def known(family: str, model: str) -> bool:
    """Whether results for this model in this family were published."""
    source = _data()["families"].get(family, {})
    return model in source.get("every_set", {}) or model in source.get("sets", {})


def about(family: str) -> str:
    """The source of a family's results, and a note about it."""
    source = _data()["families"][family]
    return f"{source['source']}. {source['note']}"
