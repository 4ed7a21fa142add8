"""Reads the output folders of tsv-analyze as sections of a report."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsv_exp.report.plots.pictures import PHONE, ForeignPicture, Picture
from tsv_exp.report.results.checks import line_of, name_of, number, whole
from tsv_exp.report.results.runs import ANALYSIS
from tsv_exp.report.tables.sheets import Entry, Line, Sheet
from tsv_exp.storage.json_files import read_object

KINDS = ("png", "svg")
_FILE = re.compile(r"[A-Za-z0-9][\w-]{0,200}")  # a plot's file name in plots/, without extension
_LARGEST = 50 << 20  # largest plot file in bytes
_MOST = 100_000  # most lines or columns of a table


@dataclass(frozen=True)
class Shown:
    """The tables and plots of one analysis, and its name."""

    name: str
    sheets: tuple[Sheet, ...]
    pictures: tuple[Picture, ...]


def plain(shown: Shown) -> dict[str, Any]:
    """Plain values for `read_analysis`: the tables in full, plots by section, title and file name in plots/."""
    return {
        "name": shown.name,
        "sheets": [
            {**vars(sheet), "lines": [{**vars(line), "entries": list(map(vars, line.entries))} for line in sheet.lines]}
            for sheet in shown.sheets
        ],
        "pictures": [{"section": p.section, "title": p.title, "name": p.paths[0].stem} for p in shown.pictures],
    }


def read_analysis(folder: Path) -> Shown:
    """Read the analysis in a folder that tsv-analyze wrote; its section is named after the folder.

    Its plots are untrusted files.

    Raises:
        OSError, ValueError, TypeError, KeyError, AttributeError: a file is missing, or has an unexpected format.
    """
    page = read_object(folder / ANALYSIS)["page"]
    name = name_of("the analysis's name", page["name"])
    section = f"Interference: {name} ({folder.name})"
    pictures = tuple(_picture(folder / "plots", section, picture) for picture in page["pictures"])
    return Shown(name, tuple(_sheet(section, sheet) for sheet in page["sheets"]), pictures)


def _picture(folder: Path, section: str, values: Mapping[str, Any]) -> Picture:
    name = values["name"]
    if not isinstance(name, str) or not _FILE.fullmatch(name):
        raise ValueError("a plot's name is not a plain file name")
    phone = folder / f"{name}{PHONE}.svg"  # missing in analyses of older versions
    paths = (*(folder / f"{name}.{kind}" for kind in KINDS), *([phone] if phone.exists() else []))
    for path in paths:
        if folder.is_symlink() or path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST:
            raise ValueError(f"{path.name} is not a plot in its folder")
    return ForeignPicture(section, name_of("a plot's title", values["title"]), paths)


def _sheet(section: str, values: Mapping[str, Any]) -> Sheet:
    headings = tuple(name_of("a heading", heading) for heading in values["headings"])
    lines = tuple(_line(line, len(headings)) for line in values["lines"])
    if not headings or len(headings) > _MOST or len(lines) > _MOST:
        raise ValueError("a table has no columns, or too many lines")
    return Sheet(
        section=section,
        title=name_of("a table's title", values["title"]),
        headings=headings,
        lines=lines,
        legend=_text(values["legend"]),
        least=whole("least", values["least"], 1, len(headings)),
        sortable=bool(values["sortable"]),
        first=name_of("the first heading", values["first"]),
    )


def _line(values: Mapping[str, Any], columns: int) -> Line:
    entries = tuple(_entry(entry) for entry in values["entries"])
    if len(entries) != columns:
        raise ValueError(f"a line has {len(entries)} entries below {columns} headings")
    return Line(name_of("a line's label", values["label"]), entries, _text(values["note"]))


def _entry(values: Mapping[str, Any]) -> Entry:
    value = values["value"]
    if value is not None and value == value:  # NaN is allowed
        value = number("an entry", value, -float("inf"), float("inf"))
    return Entry(name_of("an entry", values["text"]), whole("place", values["place"], 0, 2), value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a note or legend is not text")
    return line_of(value)
