"""Pictures on disk, and as elements of the page."""

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.text import Text

from tsv_exp.report.plots.draw import draw
from tsv_exp.report.plots.style import INK, styled
from tsv_exp.report.tables.groups import Group
from tsv_exp.storage.files import atomic

# without date and version, the same runs give the same files
UNDATED: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None}}


@dataclass(frozen=True)
class Picture:
    """A picture on disk, and the section of the report to which it belongs."""

    section: str
    title: str
    paths: tuple[Path, ...]

    @property
    def element(self) -> Markup:
        """The SVG as an element: its identifiers its own, its ink the text's colour, as wide as there is room.

        Its text stays readable: where there is too little room, the reader scrolls.
        """
        document = next(path for path in self.paths if path.suffix == ".svg").read_text(encoding="utf-8")
        svg = re.sub(r"<metadata>.*?</metadata>", "", document[document.index("<svg") :], flags=re.DOTALL)
        own = "".join(c if c.isalnum() else "-" for c in self.section + self.title)
        svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{own}-", svg).replace(INK, "currentColor")
        start, end = svg.split(">", 1)
        points = float(re.findall(r'width="([\d.]+)pt"', start)[0])
        start = re.sub(r' (width|height)="[^"]*"', "", start)
        style = f"min-width: {points:.0f}px; max-width: {1.6 * points:.0f}px"
        return Markup(f'{start} role="img" aria-label="{escape(self.title)}" style="{style}">{end}')


class ForeignPicture(Picture):
    """A picture that somebody else may have drawn: as an image, in which nothing runs and nothing is loaded."""

    @property
    def element(self) -> Markup:
        """The SVG as data of an image."""
        document = next(path for path in self.paths if path.suffix == ".svg").read_bytes()
        data = b64encode(document).decode()
        return Markup(f'<img alt="{escape(self.title)}" src="data:image/svg+xml;base64,{data}">')


def draw_pictures(groups: Sequence[Group], out: Path, kinds: Sequence[str] = ("png", "svg")) -> list[Picture]:
    """Draw what the groups support into the folder `out`, each picture in every kind."""
    with styled():
        return [save_picture(section, name, figure, out, kinds) for section, name, figure in draw(groups)]


def save_picture(section: str, name: str, figure: Figure, out: Path, kinds: Sequence[str] = ("png", "svg")) -> Picture:
    """Write one figure into the folder `out` in every kind."""
    paths = tuple(out / f"{name}.{kind}" for kind in kinds)
    for text in figure.findobj(Text):
        if text.get_text():  # names are no mathematics; labels that a scale makes while it is drawn are
            text.set_parse_math(False)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # the layout stands; each kind would compute it again
    for kind, path in zip(kinds, paths, strict=True):
        with atomic(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=160, transparent=kind == "svg", metadata=UNDATED[kind])
    return Picture(section, figure.get_suptitle(), paths)
