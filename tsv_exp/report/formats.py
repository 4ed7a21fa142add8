"""Groups of rows as Markdown, CSV, LaTeX and plain JSON; figures are percentages with two decimals."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from tsv_exp.report.runs import Runs
from tsv_exp.report.tables import Estimate, Group, Row, columns

MISSING = "–"
MARKDOWN = {1: "**{}**", 2: "<u>{}</u>"}
LATEX = {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
ESCAPES = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "α": r"$\alpha$",
    "λ": r"$\lambda$",
    "–": "--",
    "±": r"$\pm$",
}


def percent(estimate: Estimate | None) -> str:
    """A fraction in percent, with its spread where there is one: 85.86 ± 0.21."""
    if estimate is None:
        return MISSING
    value = f"{100 * estimate.mean:.2f}"
    return value if estimate.spread is None else f"{value} ± {100 * estimate.spread:.2f}"


def alpha(row: Row) -> str:
    """The chosen α, or the range over seeds."""
    return "–".join(dict.fromkeys(f"{value:.3g}" for value in (*row.alphas[:1], *row.alphas[-1:]))) or MISSING


def size(row: Row) -> str:
    """Stored size in percent of one full checkpoint per task."""
    return MISSING if row.size is None else f"{100 * row.size:.1f} %"


def legend(group: Group) -> str:
    """What the figures of a group's table mean."""
    seeds = {len(row.cells) for row in group.rows if row.cells}
    several = max(seeds, default=1) > 1
    spread = "standard deviation over seeds" if several else "binomial standard error over the test images"
    return (
        f"Test accuracy in percent; ± is the {spread}. Normalized: relative to each task's fine-tuned model. "
        "α: scaling of the merged task vector. Size: what is stored to serve all tasks, relative to one full "
        "checkpoint per task. Best single merged model bold, second underlined."
    )


def cells(group: Group) -> list[tuple[Row, list[tuple[str, int | None]]]]:
    """Per row the accuracy columns as text, each with its place (1 best, 2 second) or None."""
    figures = [(figure, group.places(figure)) for _, figure in columns(group)]
    return [(row, [(percent(figure(row)), places.get(row.label)) for figure, places in figures]) for row in group.rows]


def note(row: Row) -> str:
    """What a reader must know of a row beside its figures."""
    if row.error:
        return f"{row.status}: {row.error}"
    return f"{len(row.cells)} seeds" if len(row.cells) > 1 else ""


def markdown(groups: Sequence[Group]) -> str:
    """One table per group, and an overview where there are several."""
    parts = []
    for group in groups:
        headings = [*(heading for heading, _ in columns(group)), "α", "size"]
        notes = any(note(row) for row in group.rows)
        rule = ["---", *["---:"] * len(headings), *["---"] * notes]
        lines = [_line(["method", *headings, *["note"] * notes]), _line(rule)]
        for row, figures in cells(group):
            texts = [MARKDOWN.get(place or 0, "{}").format(text) for text, place in figures]
            lines.append(_line([row.label, *texts, alpha(row), size(row), *[note(row)] * notes]))
        parts.append(f"### {group.title}\n\n" + "\n".join(lines) + f"\n\n{legend(group)}\n")
    return "\n".join(parts)


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def latex(groups: Sequence[Group]) -> str:
    """One booktabs table per group, at most as wide as the text."""
    parts = ["% in the preamble: \\usepackage{booktabs,graphicx}"]
    for group in groups:
        headings = [heading for heading, _ in columns(group)]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(group.title)}. {escape(legend(group))}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(group.tasks))}rrrr}}",
            r"\toprule",
            " & ".join(escape(text) for text in ("Method", *headings, "α", "Size")) + r" \\",
            r"\midrule",
        ]
        for row, figures in cells(group):
            if row.error:
                span = len(headings) + 2
                lines.append(rf"{escape(row.label)} & \multicolumn{{{span}}}{{l}}{{{escape(note(row))}}} \\")
                continue
            texts = [LATEX.get(place or 0, "{}").format(escape(text)) for text, place in figures]
            lines.append(" & ".join([escape(row.label), *texts, escape(alpha(row)), escape(size(row))]) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]))
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(ESCAPES.get(character, character) for character in text)


def comma_separated(groups: Sequence[Group]) -> str:
    """All groups as one CSV: percentages, one column per task of any group, parameters as name=value."""
    tasks = list(dict.fromkeys(task for group in groups for task in group.tasks))
    out = io.StringIO()
    run = ["model", "family", "tasks", "method", "params", "seeds", "status", "error", "alpha", "size"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*run, "average", "average_spread", "normalized", "normalized_spread", *tasks])
    for group in groups:
        for row in group.rows:
            params = ";".join(f"{name}={value}" for name, value in row.params.items() if value is not None)
            values = [
                group.model,
                group.family,
                len(group.tasks),
                row.method,
                params,
                len(row.cells),
                row.status,
                row.error,
            ]
            values += [alpha(row) if row.alphas else "", _plain(row.size)]
            for average in (row.average, row.normalized):
                values += [_plain(average.mean if average else None), _plain(average.spread if average else None)]
            figures = [row.task(task) if task in group.tasks else None for task in tasks]
            writer.writerow([*values, *(_plain(figure.mean if figure else None) for figure in figures)])
    return out.getvalue()


def _plain(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}"


def machine_readable(groups: Sequence[Group], runs: Runs) -> dict[str, Any]:
    """The tables as plain JSON values; accuracies are fractions, as in results.json."""
    tables = [
        {"model": g.model, "family": g.family, "tasks": list(g.tasks), "rows": [_plain_row(g, row) for row in g.rows]}
        for g in groups
    ]
    problems = [{"folder": str(problem.folder), "reason": problem.reason} for problem in runs.problems]
    return {"groups": tables, "problems": problems, "replaced": runs.replaced}


def _plain_row(group: Group, row: Row) -> dict[str, Any]:
    figures = {heading: figure(row) for heading, figure in columns(group)}
    return {
        "label": row.label,
        "method": row.method,
        "params": dict(row.params),
        "status": row.status,
        "error": row.error,
        "seeds": [cell.seed for cell in row.cells],
        "folders": [str(cell.folder) for cell in row.cells],
        "alpha": [cell.alpha for cell in row.cells],
        "per_task": row.per_task,
        "size": row.size,
        "figures": {name: e and {"mean": e.mean, "spread": e.spread} for name, e in figures.items()},
    }
