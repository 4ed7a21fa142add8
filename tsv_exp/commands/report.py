"""tsv-report: tables, plots and a page from run folders."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tsv_exp.commands.app.completion import OPTIONS, complete
from tsv_exp.commands.app.guard import run_command
from tsv_exp.report.results.published import families
from tsv_exp.report.tables.formats.terminal import show
from tsv_exp.report.write import write_report
from tsv_exp.runtime.console import ResilientConsole
from tsv_exp.runtime.messages.parser import Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: returns 0 if a report was written, else prints one line on standard error and returns 1."""
    typed = sys.argv[1:] if arguments is None else arguments
    if typed and typed[0] in OPTIONS:
        return run_command("tsv-report", lambda: complete(typed, _words))
    hint = "files already written are complete"
    return run_command("tsv-report", lambda: _run(_parser().parse_args(typed)), lambda: hint)


def _parser() -> Parser:
    parser = Parser(
        prog="tsv-report",
        description="Makes tables, plots and an HTML page from any set of run folders.",
        epilog='Tab completion for this shell: eval "$(tsv-report -sc install=bash)", or zsh, fish.',
    )
    parser.add_argument(
        "folders", nargs="+", metavar="DIR", type=Path, help="the folder of a run or a sweep, or a folder of these"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="the folder to write (default: the first DIR)")
    help_published = (
        "compare with the published results of this family (default: the family of the measured checkpoints)"
    )
    parser.add_argument("--published", choices=families(), help=help_published)
    help_paired = "a row such as tsv_m: adds the differences of all other rows to it, with paired standard errors"
    parser.add_argument("--paired", metavar="ROW", help=help_paired)
    help_sort = "sort the methods in plots by average accuracy, best first"
    parser.add_argument("--by-score", action="store_true", help=help_sort)
    help_all = "also list the missing runs of sweeps of which no run started"
    parser.add_argument("--all", action="store_true", help=help_all)
    return parser


def _words(typed: Sequence[str]) -> list[str]:
    """Completions of a command line, besides folders."""
    if typed and typed[-1] == "--published":
        return list(families())
    return ["--out", "--published", "--paired", "--by-score", "--all", "--help", "--version"]


def _run(options: argparse.Namespace) -> None:
    out = options.out or options.folders[0]
    report = write_report(options.folders, out, options.published, options.paired, options.by_score, options.all)
    console = ResilientConsole(soft_wrap=True, highlight=False)
    show(report.sheets, ResilientConsole(highlight=False))
    for line in report.runs.problem_lines():
        console.print(line, style="red", markup=False)
    pictures = sum(path.suffix == ".png" for path in report.paths)
    console.print(f"{report.runs.summary}. Wrote {len(report.paths)} files ({pictures} plots) to {out}", markup=False)
    console.print(f"Look at {report.paths[0]}", style="bold", markup=False)
