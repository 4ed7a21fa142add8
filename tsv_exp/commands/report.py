"""tsv-report: run folders -> tables, plots and one page."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tsv_exp.commands.guard import run_command
from tsv_exp.report.results.published import families
from tsv_exp.report.tables.terminal import show
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
    help_paired = (
        "a row, such as tsv_m: the differences of all others to it, with standard errors over the same examples"
    )
    parser.add_argument("--paired", metavar="ROW", help=help_paired)
    help_sort = "pictures show the methods in the order of their average accuracy, the best first"
    parser.add_argument("--by-score", action="store_true", help=help_sort)
    options = parser.parse_args(arguments)
    kept = "what was written is whole, the rest is not there"
    return run_command("tsv-report", lambda: _run(options), lambda: kept)


def _run(options: argparse.Namespace) -> None:
    out = options.out or options.folders[0]
    report = write_report(options.folders, out, options.published, options.paired, options.by_score)
    console = Console(soft_wrap=True, highlight=False)
    show(report.sheets, Console(highlight=False))
    for problem in report.runs.problems:
        console.print(f"{problem.folder}: {problem.reason}", style="red", markup=False)
    pictures = sum(path.suffix == ".png" for path in report.paths)
    console.print(
        f"{report.runs.summary}. Wrote {len(report.paths)} files ({pictures} pictures) to {out}", markup=False
    )
    console.print(f"Look at {report.paths[0]}", style="bold", markup=False)
