"""tsv-analyze: how much the tasks of a merge interfere, and where (Singular Task Interference, arXiv 2412.00081)."""

from tsv_exp.analyze.cli import main

__all__ = ["main"]
