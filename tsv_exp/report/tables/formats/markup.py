"""Sheets as Markdown and LaTeX."""

from collections.abc import Sequence

from tsv_exp.report.results.runs import Experiment
from tsv_exp.report.tables.sheets import Line, Sheet
from tsv_exp.runtime.messages.tables import table_row

MARKDOWN = ("{}", "**{}**", "<u>{}</u>")
LATEX = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}")
ESCAPES = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "α": r"$\alpha$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "Σ": r"$\Sigma$",
    "Δ": r"$\Delta$",
    "‖": r"$\|$",
    "²": "$^2$",
    "ᵀ": r"$^\top$",
    "†": r"$\dagger$",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
}


def markdown(sheets: Sequence[Sheet], experiments: Sequence[Experiment] = ()) -> str:
    """One table per sheet, with its heading and legend; first what the runs are called."""
    called = "".join(f"- {experiment}\n" for experiment in experiments)
    tables = [f"## {sheet.title}\n\n{_markdown(sheet)}\n\n{sheet.legend}\n" for sheet in sheets]
    return "\n".join([called, *tables] if called else tables)


def _markdown(sheet: Sheet) -> str:
    notes = any(line.note for line in sheet.lines)
    rows = [[sheet.first, *sheet.headings, *["note"] * notes]]
    rows += [["---", *["---:"] * len(sheet.headings), *["---"] * notes]]
    for line in sheet.lines:
        texts = [MARKDOWN[entry.place].format(entry.text) for entry in line.entries]
        rows.append([line.label, *texts, *[line.note] * notes])
    return "\n".join(map(table_row, rows))


def latex(sheets: Sequence[Sheet]) -> str:
    """One booktabs table per sheet, at most as wide as the text; notes are below the table."""
    preamble = "% in the preamble: \\usepackage{booktabs,graphicx}"
    return "\n\n".join([preamble, *(_latex(sheet) for sheet in sheets)]) + "\n"


def _latex(sheet: Sheet) -> str:
    notes = [rf"{escape(line.label)}: {escape(line.note)}\par" for line in sheet.lines if line.note]
    below = [r"\par\medskip\footnotesize\raggedright", *notes] if notes else []
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(sheet.title)}. {escape(sheet.legend)}}}\par\smallskip",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * len(sheet.headings)}}}",
            r"\toprule",
            " & ".join(escape(text) for text in (sheet.first.capitalize(), *sheet.headings)) + r" \\",
            r"\midrule",
            *(_latex_line(line) for line in sheet.lines),
            r"\bottomrule",
            r"\end{tabular}}",
            *below,
            r"\end{table}",
        ]
    )


def _latex_line(line: Line) -> str:
    texts = [LATEX[entry.place].format(escape(entry.text)) for entry in line.entries]
    return " & ".join([escape(line.label), *texts]) + r" \\"


def escape(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(ESCAPES.get(character, character) for character in text)
