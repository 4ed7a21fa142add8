"""Run folders -> tables, plots and one page: no GPU, no model imports (also a command: tsv-report)."""

from tsv_exp.report.cli import main
from tsv_exp.report.single import run_table
from tsv_exp.report.write import write_report

__all__ = ["main", "run_table", "write_report"]
