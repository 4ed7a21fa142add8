"""Writes a report: tables, plots and one page."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from tsv_exp.report.results.runs import MALFORMED, Problem, Runs, read_runs
from tsv_exp.report.tables.assemble import build_groups
from tsv_exp.report.tables.comparison import comparison_sheets
from tsv_exp.report.tables.formats import data
from tsv_exp.report.tables.formats import markup as formats
from tsv_exp.report.tables.groups import Group
from tsv_exp.report.tables.paired import paired_sheets
from tsv_exp.report.tables.routing import routing_sheets
from tsv_exp.report.tables.sheets import Sheet, group_sheet, overview_sheets
from tsv_exp.storage.files import atomic


@dataclass(frozen=True)
class Report:
    """The runs, their tables, and the files written, with the page first."""

    runs: Runs
    groups: tuple[Group, ...]
    sheets: tuple[Sheet, ...]
    paths: tuple[Path, ...]


def write_report(
    folders: Iterable[Path | str],
    out: Path | str,
    published: str | None = None,
    paired: str | None = None,
    by_score: bool = False,
    unlaunched: bool = False,
) -> Report:
    """Read all runs below `folders`; write report.html, table.md, .csv, .tex, report.json and plots/ into `out`.

    Args:
        folders: run folders, sweeps, analyses, or folders of them.
        out: the output folder, created if missing; files of an earlier report are replaced.
        published: compare with results published for this family of checkpoints; None: for the measured family.
        paired: name of a row with which all others are compared example by example; None: no such tables.
        by_score: plots sort methods by accuracy instead of the order of runs.
        unlaunched: see `read_runs`.

    Raises:
        UserError: a folder does not exist or contains no runs; there are no published results for these models; no row
            is named `paired`; `out` is not writable.
    """
    # matplotlib and jinja2 are slow imports
    from tsv_exp.report.analyses import Shown, read_analysis
    from tsv_exp.report.page import render, title_of
    from tsv_exp.report.plots.pictures import draw_pictures

    out = Path(out)
    runs = read_runs(folders, unlaunched)
    groups = build_groups(runs)
    analyses: list[Shown] = []
    for folder in runs.analyses:
        try:
            analyses.append(read_analysis(folder))
        except MALFORMED as error:
            unreadable = Problem(folder, f"not a valid analysis of tsv-analyze: {error}")
            runs = replace(runs, problems=(*runs.problems, unreadable))
    differences = paired_sheets(groups, paired) if paired is not None else ()
    compared = (*differences, *comparison_sheets(groups, published), *overview_sheets(groups))
    sheets = (*map(group_sheet, groups), *routing_sheets(groups), *compared)
    sheets = (*sheets, *(sheet for shown in analyses for sheet in shown.sheets))
    texts = {
        "table.md": formats.markdown(sheets, runs.experiments),
        "table.csv": data.comma_separated(groups),
        "table.tex": formats.latex(sheets),
        "report.json": json.dumps(data.plain(groups, runs), indent=1, ensure_ascii=False),
    }
    for name, text in texts.items():
        _write(out / name, text)
    pictures = draw_pictures(groups, out / "plots", by_score=by_score)
    copied = [picture for shown in analyses for picture in shown.pictures]
    page = render(title_of(runs), runs.summary, sheets, [*pictures, *copied], runs.problems, runs.experiments)
    _write(out / "report.html", page)
    drawn = (path for picture in pictures for path in picture.paths)
    return Report(runs, groups, sheets, (out / "report.html", *(out / name for name in texts), *drawn))


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # folder names may not be valid UTF-8
