"""What tsv-analyze left in its folders, as sections of a report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsv_exp.report.plots.pictures import Picture
from tsv_exp.report.results.runs import ANALYSIS
from tsv_exp.report.tables.sheets import Entry, Line, Sheet

KINDS = ("png", "svg")


@dataclass(frozen=True)
class Shown:
    """The tables and pictures of one analysis, and the name of what was analyzed."""

    name: str
    sheets: tuple[Sheet, ...]
    pictures: tuple[Picture, ...]


def plain(shown: Shown) -> dict[str, Any]:
    """What `read_analysis` reads back: the tables whole, pictures by section, title and name in plots/."""
    return {
        "name": shown.name,
        "sheets": [
            {**vars(sheet), "lines": [{**vars(line), "entries": list(map(vars, line.entries))} for line in sheet.lines]}
            for sheet in shown.sheets
        ],
        "pictures": [{"section": p.section, "title": p.title, "name": p.paths[0].stem} for p in shown.pictures],
    }


def read_analysis(folder: Path) -> Shown:
    """The analysis in a folder that tsv-analyze wrote, in a section that the folder names: several stand side by side.

    Raises:
        OSError, ValueError, TypeError, KeyError: a file is missing, or is not what tsv-analyze writes.
    """
    page = json.loads((folder / ANALYSIS).read_text(encoding="utf-8"))["page"]
    section = f"Interference: {page['name']} ({folder.name})"
    pictures = []
    for picture in page["pictures"]:
        paths = tuple(folder / "plots" / f"{picture['name']}.{kind}" for kind in KINDS)
        for path in paths:
            path.stat()
        pictures.append(Picture(section, picture["title"], paths))
    return Shown(page["name"], tuple(_sheet(section, sheet) for sheet in page["sheets"]), tuple(pictures))


def _sheet(section: str, values: Mapping[str, Any]) -> Sheet:
    return Sheet(
        **{
            **values,
            "section": section,
            "headings": tuple(values["headings"]),
            "lines": tuple(_line(line) for line in values["lines"]),
        }
    )


def _line(values: Mapping[str, Any]) -> Line:
    return Line(**{**values, "entries": tuple(Entry(**entry) for entry in values["entries"])})
