"""Writes an analysis: tables, plots and one page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tsv_exp.analyze import plots, tables
from tsv_exp.analyze.analysis import Analysis, Proposal
from tsv_exp.report import analyses
from tsv_exp.report.analyses import Shown
from tsv_exp.report.page import render
from tsv_exp.report.plots.pictures import save_pictures
from tsv_exp.report.plots.style import styled
from tsv_exp.report.results.runs import ANALYSIS, Runs
from tsv_exp.report.tables.formats import markup as formats
from tsv_exp.report.write import Report
from tsv_exp.storage.files import atomic


def write_analysis(analysis: Analysis, proposals: Sequence[Proposal], out: Path | str, name: str) -> Report:
    """Write analysis.html, table.md, analysis.json, four .csv files and plots/ into `out`.

    Args:
        analysis: what was measured.
        proposals: which tasks to merge together, the best first; may be empty.
        out: created if missing.
        name: of the model, for the title.

    Raises:
        UserError: `out` cannot be written.
    """
    out = Path(out)
    sheets = tables.sheets(analysis, proposals)
    texts = {
        "table.md": formats.markdown(sheets),
        "layers.csv": tables.layers_csv(analysis),
        "tasks.csv": tables.tasks_csv(analysis),
        "spectra.csv": tables.spectra_csv(analysis),
        "pairs.csv": tables.pairs_csv(analysis),
    }
    with styled():
        broad, narrow = (
            [(tables.SECTION, key, figure) for key, figure in plots.draw(analysis, phone)] for phone in (False, True)
        )
        pictures = save_pictures(broad, narrow, out / "plots")
    shown = Shown(name, tuple(sheets), tuple(pictures))
    figures = {**plain(analysis, proposals), "page": analyses.plain(shown)}
    texts["analysis.html"] = render(f"Interference: {name}", summary(analysis), sheets, pictures)
    texts[ANALYSIS] = json.dumps(
        figures, indent=1, ensure_ascii=False
    )  # last, so that the other files exist when it does
    for file, text in texts.items():
        with atomic(out / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    drawn = (path for picture in pictures for path in picture.paths)
    paths = (out / "analysis.html", *(out / file for file in texts if file != "analysis.html"), *drawn)
    return Report(Runs((), (), ()), (), tuple(sheets), paths)


def summary(analysis: Analysis) -> str:
    """One line: what was measured, and the total."""
    tasks, interference, relative = (
        analysis.tasks,
        tables.rounded(analysis.interference),
        tables.rounded(analysis.relative),
    )
    return (
        f"{len(tasks)} task{'s' * (len(tasks) > 1)} ({', '.join(tasks)}), {len(analysis.layers)} matrices; "
        f"STI {interference}, relative to Σσ {relative}"
    )


def plain(analysis: Analysis, proposals: Sequence[Proposal] = ()) -> dict[str, Any]:
    """The totals, in plain containers."""
    return {
        "tasks": list(analysis.tasks),
        "interference": analysis.interference,
        "strength": analysis.strength,
        "relative": analysis.relative,
        "layers": {layer.name: layer.interference for layer in analysis.layers},
        "cosines": analysis.cosines.tolist(),
        "overlap_left": analysis.overlap("left").tolist(),
        "overlap_right": analysis.overlap("right").tolist(),
        "pairs": analysis.pairs.tolist(),
        "selected": list(proposals[0].tasks) if proposals else None,
    }
