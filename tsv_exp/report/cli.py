"""tsv-report: run folders -> tables, plots and one page."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tsv_exp.errors import UserError
from tsv_exp.report.published import families
from tsv_exp.report.terminal import show
from tsv_exp.report.write import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 when a report was written, 1 with one line on standard error when not."""
    parser = argparse.ArgumentParser(
        prog="tsv-report", description="Tables, plots and a page from any set of run folders."
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", type=Path, help="a run, a sweep, or a folder of them")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: the first DIR)")
    help_published = "compare with the figures published for these checkpoints (default: those that were measured)"
    parser.add_argument("--published", choices=families(), help=help_published)
    options = parser.parse_args(arguments)
    out = options.out or options.folders[0]
    try:
        report = write_report(options.folders, out, options.published)
    except UserError as error:
        Console(stderr=True, soft_wrap=True).print(f"tsv-report: {error}", style="red", markup=False, highlight=False)
        return 1
    console = Console()
    show(report.sheets, console)
    for problem in report.runs.problems:
        console.print(f"{problem.folder}: {problem.reason}", style="red", soft_wrap=True, markup=False, highlight=False)
    pictures = sum(path.suffix == ".png" for path in report.paths)
    console.print(
        f"{report.runs.summary}. Wrote {len(report.paths)} files ({pictures} pictures) to {out}", soft_wrap=True
    )
    console.print(f"Look at {report.paths[0]}", style="bold", soft_wrap=True, highlight=False)
    return 0
