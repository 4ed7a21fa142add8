"""The table of a single run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tsv_exp.report.results.cells import Cell, from_results
from tsv_exp.report.results.published import alpha_remark
from tsv_exp.report.results.runs import described
from tsv_exp.report.tables import sheets
from tsv_exp.report.tables.assemble import single
from tsv_exp.report.tables.groups import Estimate
from tsv_exp.runtime.messages.counts import counted


def run_table(results: Mapping[str, Any]) -> str:
    """Markdown of one results.json: a line per task, the averages, α, the stored size; or the error.

    Raises:
        KeyError, ValueError, TypeError: a finished run lacks a value, or it is not a number.
    """
    cell = from_results(results, Path())
    called = described(cell.words)
    title = f"# {cell.method}, {cell.model}, {counted(cell.count, 'task')}\n\n" + (f"{called}\n\n" if called else "")
    if cell.error is not None:
        return f"{title}Failed: {cell.error}\n"
    (row,) = single(cell).rows
    lines = ["| task | accuracy | normalized |", "| --- | ---: | ---: |"]
    for task in cell.tasks:
        normalized = Estimate(cell.test["normalized"][task])
        lines.append(f"| {task} | {sheets.percent(row.task(task))} | {sheets.percent(normalized)} |")
    lines.append(f"| **average** | **{sheets.percent(row.average)}** | **{sheets.percent(row.normalized)}** |")
    given = {name: value for name, value in cell.params.items() if name.rstrip("_") not in cell.tuned}
    params = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None) or "none"
    remarks = alpha_remark(cell.family), sheets.AT_EDGE if row.at_edge else ""
    facts = [
        " ".join(filter(None, [f"- α {sheets.alpha(row)} ({_origin(cell)})", *remarks])),
        f"- stored size {sheets.size(row)} of one full checkpoint per task",
        f"- parameters: {params}; seed {cell.seed}",
    ]
    for name, values in cell.tuned.items():
        each = ", ".join(f"{task} {value}" for task, value in values.items())
        passes = "" if cell.tuning_passes is None else f" ({cell.tuning_passes:.1f} passes)"
        facts.append(f"- {name} chosen on validation{passes}: {each}")
    if ties := cell.near_ties:
        span = f"{len(ties)} values of α from {min(ties):.3g} to {max(ties):.3g}"
        facts.append(f"- {span} were within one validation example of the best, and were compared in float32")
    if row.routed:
        found, own, told = (sheets.percent(row.routing(part)) for part in ("routed", "own_head", "told"))
        facts.append(
            f"- the router finds the task of {found} % of the examples; with each task's own head the "
            f"accuracy is {own}, with the task known {told}"
        )
    return title + "\n".join([*lines, "", *facts]) + "\n"


def _origin(cell: Cell) -> str:
    """How α was found; after a race, on how many examples the chosen value was measured."""
    if not cell.chosen:
        return "given"
    examples = next((point.get("examples") for point in cell.validation if point["alpha"] == cell.alpha), None)
    if examples is None:
        return "chosen on validation"
    passes = "" if cell.passes is None else f" in {cell.passes:.1f} passes"
    return f"chosen on validation{passes}, measured on {counted(examples, 'example')}"
