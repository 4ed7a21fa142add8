"""A report on disk: tables, pictures and one page."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tsv_exp.files import atomic
from tsv_exp.report import formats
from tsv_exp.report.runs import Runs, read_runs
from tsv_exp.report.tables import Group, build_groups

# without date and version, the same runs give the same files
UNDATED: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None}}


@dataclass(frozen=True)
class Report:
    """What was read, the tables made of it, and the files written."""

    runs: Runs
    groups: tuple[Group, ...]
    paths: tuple[Path, ...]


def write_report(folders: Iterable[Path | str], out: Path | str) -> Report:
    """Read all runs below `folders` and write table.md, .csv, .tex, report.json and plots/ into `out`.

    Raises:
        UserError: a folder does not exist or holds no runs; `out` cannot be written.
    """
    runs = read_runs(folders)
    groups = build_groups(runs)
    out = Path(out)
    texts = {
        "table.md": formats.markdown(groups),
        "table.csv": formats.comma_separated(groups),
        "table.tex": formats.latex(groups),
        "report.json": json.dumps(formats.machine_readable(groups, runs), indent=1, ensure_ascii=False),
    }
    for name, text in texts.items():
        with atomic(out / name) as path:
            path.write_text(text, encoding="utf-8")
    return Report(runs, groups, (*(out / name for name in texts), *write_pictures(groups, out / "plots")))


def write_pictures(groups: Sequence[Group], out: Path, kinds: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Draw what the groups support into the folder `out`, each picture in every kind."""
    # matplotlib takes longer to import than everything else here together
    from tsv_exp.report.plots import draw
    from tsv_exp.report.style import styled

    paths = []
    with styled():
        for name, figure in draw(groups):
            for kind in kinds:
                paths.append(out / f"{name}.{kind}")
                with atomic(paths[-1]) as path:
                    figure.savefig(path, format=kind, dpi=160, transparent=kind == "svg", metadata=UNDATED[kind])
    return paths
