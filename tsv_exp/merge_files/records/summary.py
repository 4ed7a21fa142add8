"""Prints a table about a finished merge, and warnings about suspicious results."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from tsv_exp.merge_files.options.options import Options
from tsv_exp.merge_files.records.measures import Measured
from tsv_exp.merge_files.records.probes import estimate
from tsv_exp.merging.results.across import layer_kind
from tsv_exp.merging.results.weights import variance_warning
from tsv_exp.merging.task_vectors import TaskVectors
from tsv_exp.runtime.console import console
from tsv_exp.runtime.messages.counts import counted, some

_CANCELS = 0.1  # relative to the norm of the mean of orthogonal task vectors


def show(options: Options, stream: TaskVectors, layers: Mapping[str, Measured], size: str) -> None:
    """Print the table and the warnings."""
    for line in warnings(stream.tasks, layers, options.weights):
        console.print(f"warning: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(_tasks(stream.tasks, layers))
    for line in (*_counts(options, stream, layers), *_data_free(stream, layers), *_lost(layers)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{options.out}: {size}", markup=False, highlight=False, soft_wrap=True)


def norms(tasks: Sequence[str], layers: Mapping[str, Measured]) -> tuple[list[float], float, float]:
    """The norm of every task vector, of their merge, and of the merge times α (each layer's own)."""
    own = [math.sqrt(sum(found.squares[i] for found in layers.values())) for i in range(len(tasks))]
    merged = math.sqrt(sum(found.merged for found in layers.values()))
    return own, merged, math.sqrt(sum(found.alpha**2 * found.merged for found in layers.values()))


def warnings(tasks: Sequence[str], layers: Mapping[str, Measured], weights: Mapping[str, float]) -> list[str]:
    """Warnings: models equal to the base or to each other, task vectors that cancel."""
    own, merged, _ = norms(tasks, layers)
    found = [
        f"model {task!r} is equal to the base" if weights.get(task, 1) else f"the weight of model {task!r} is 0"
        for task, norm in zip(tasks, own, strict=True)
        if norm == 0
    ]
    if not any(own):
        reason = "all models are equal to the base" if all(weights.values()) else "; ".join(found)
        return [f"{reason}; so the merged model is the base; check the paths, weights and keep"]
    equal: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for index, (task, norm) in enumerate(zip(tasks, own, strict=True)):
        if norm:
            marks = tuple((layer.squares[index], layer.marks[index]) for layer in layers.values())
            equal.setdefault(marks, []).append(repr(task))
    for names in equal.values():
        if len(names) > 1:
            count = f" ({len(names)})" if len(names) > 3 else ""
            shown = f"{names[0]} and {names[1]}" if len(names) == 2 else some(names)
            found.append(f"models {shown}{count} are equal to each other")
    if kept := sum(layer.kept_entries for layer in layers.values()):
        found.append(variance_warning(kept))
    unrelated = math.sqrt(sum(norm**2 for norm in own)) / len(tasks)
    if not any(layer.by_task for layer in layers.values()) and merged < _CANCELS * unrelated:
        found.append(
            f"the merged task vector nearly cancels: its norm is {merged:.3g}, the models' are "
            f"{min(own):.3g} to {max(own):.3g}; the merged model is close to the base"
        )
    return found


def _tasks(tasks: Sequence[str], layers: Mapping[str, Measured]) -> Table:
    own, merged, scaled = norms(tasks, layers)
    table = Table(box=None, pad_edge=False, header_style="")
    for title in ("model", "norm of its task vector", "norm of α · merge / task vector"):
        table.add_column(title, justify="left" if title == "model" else "right", overflow="fold")
    for task, norm in zip(tasks, own, strict=True):
        table.add_row(Text(task), f"{norm:.4g}", f"{scaled / norm:.3f}" if norm and merged else "–")
    if merged:
        table.add_row("merge, α · merge", f"{merged:.4g}", f"{scaled:.4g}")
    return table


def _counts(options: Options, stream: TaskVectors, layers: Mapping[str, Measured]) -> list[str]:
    changed = [found for found in layers.values() if found.merged or found.by_task]  # not where k = 0
    kinds = Counter((found.method, found.alpha, _kind(found)) for found in changed)
    lines = [
        f"{counted(count, *kind)} merged by {method}, α = {alpha:g}"
        for (method, alpha, kind), count in sorted(kinds.items())
    ]
    if options.form == "lora":
        left = [name for name in stream.names if name not in layers]
        line = (
            f"{counted(len(left), 'tensor')} not in the adapter, also where models change them: {_left(stream, left)}"
        )
        return [*lines, line] if left else lines
    kept = len(stream.base) - len(changed)
    return [*lines, f"{counted(kept, 'tensor')} copied from the base"] if kept else lines


def _left(stream: TaskVectors, names: Sequence[str]) -> str:
    """All kinds of matrices among some tensors, and then the first of the others."""
    kinds: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for name in names:
        kinds[stream.base[name].dim() > 1][layer_kind(name)] = None
    return ", ".join([*kinds[True], *([some(list(kinds[False]))] if kinds[False] else [])])


def _kind(found: Measured) -> tuple[str, str]:
    if found.matrix:
        return "matrix", "matrices"
    return ("stack of matrices", "stacks of matrices") if found.stack else ("other layer", "other layers")


def _data_free(stream: TaskVectors, layers: Mapping[str, Measured]) -> list[str]:
    responses = [found.responses for found in layers.values() if found.responses is not None]
    alpha = estimate(responses)
    if alpha is None:
        return []
    matrices = sum(found.matrix for found in layers.values())
    line = f"data-free α: about {alpha:.2f}, from {len(responses)} of {counted(matrices, 'matrix', 'matrices')}"
    return [f"{line}; for adapters it is too large, often 2 to 5 times" if stream.adapters_only else line]


def _lost(layers: Mapping[str, Measured]) -> list[str]:
    total = sum(found.merged for found in layers.values())
    lost = sum(found.lost for found in layers.values())
    ranks = {found.rank for found in layers.values() if found.rank}
    if not ranks:
        return []
    line = f"adapter of rank {max(ranks)}: {100 * lost / total if total else 0:.2g} % of the merge's energy is lost"
    worst = max(layers, key=lambda name: layers[name].lost / layers[name].merged if layers[name].merged else 0)
    part = layers[worst].lost / layers[worst].merged if layers[worst].merged else 0
    return [f"{line}, at most {100 * part:.2g} % of a layer's ({worst})" if part > 1e-9 else line]
