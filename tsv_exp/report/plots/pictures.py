"""Plots as files, and as elements of the page."""

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.text import Text

from tsv_exp.report.plots.draw import draw
from tsv_exp.report.plots.hover import with_titles
from tsv_exp.report.plots.style import INK, styled
from tsv_exp.report.tables.groups import Group
from tsv_exp.storage.files import atomic

PHONE = "-narrow"  # suffix of plots for phones
# no date and version: the same runs give the same files
UNDATED: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None}}


@dataclass(frozen=True)
class Picture:
    """The files of a plot, and its section of the report."""

    section: str
    title: str
    paths: tuple[Path, ...]

    @property
    def element(self) -> Markup:
        """The SVGs as elements; the page shows the one that fits the screen.

        Identifiers are made unique, and the ink takes the text's colour.
        """
        files = [path for path in self.paths if path.suffix == ".svg"]
        return Markup("").join(
            self._element(path, "narrow" if path.stem.endswith(PHONE) else "broad") for path in files
        )

    def _element(self, path: Path, kind: str) -> Markup:
        document = path.read_text(encoding="utf-8")
        svg = re.sub(r"<metadata>.*?</metadata>", "", document[document.index("<svg") :], flags=re.DOTALL)
        own = "".join(c if c.isalnum() else "-" for c in self.section + self.title + kind)
        svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{own}-", svg).replace(INK, "currentColor")
        start, end = svg.split(">", 1)
        points = float(re.findall(r'width="([\d.]+)pt"', start)[0])
        start = re.sub(r' (width|height)="[^"]*"', "", start)
        shown = f' class="{kind}"' if kind else ""
        style = f"max-width: {1.6 * points:.0f}px"
        return Markup(f'{start} role="img"{shown} aria-label="{escape(self.title)}" style="{style}">{end}')


class ForeignPicture(Picture):
    """A plot from an untrusted file: embedded as an image, in which no script runs and nothing is loaded."""

    @property
    def element(self) -> Markup:
        """The SVGs as images with embedded data; the page shows the one that fits the screen."""
        files = [path for path in self.paths if path.suffix == ".svg"]
        return Markup("").join(map(self._image, files, _kinds(files)))

    def _image(self, path: Path, kind: str) -> Markup:
        data = b64encode(path.read_bytes()).decode()
        shown = f' class="{kind}"' if kind else ""
        return Markup(f'<img alt="{escape(self.title)}"{shown} src="data:image/svg+xml;base64,{data}">')


def _kinds(files: Sequence[Path]) -> list[str]:
    """The screen class of each SVG."""
    return ["" if len(files) == 1 else "narrow" if path.stem.endswith(PHONE) else "broad" for path in files]


def draw_pictures(
    groups: Sequence[Group], out: Path, kinds: Sequence[str] = ("png", "svg"), by_score: bool = False
) -> list[Picture]:
    """Draw all supported plots into the folder `out`, each in every file format, and as SVG for phones."""
    with styled():
        return save_pictures(draw(groups, False, by_score), draw(groups, True, by_score), out, kinds)


Drawn = Iterable[tuple[str, str, Figure]]  # section, file name, figure


def save_pictures(broad: Drawn, narrow: Drawn, out: Path, kinds: Sequence[str] = ("png", "svg")) -> list[Picture]:
    """Write figures, and their phone versions as SVG if that is one of the formats."""
    pictures = [save_picture(*one, out, kinds) for one in broad]
    if "svg" not in kinds:
        return pictures
    phone = [save_picture(section, name + PHONE, figure, out, ("svg",)) for section, name, figure in narrow]
    return [replace(one, paths=(*one.paths, *other.paths)) for one, other in zip(pictures, phone, strict=True)]


def save_picture(section: str, name: str, figure: Figure, out: Path, kinds: Sequence[str] = ("png", "svg")) -> Picture:
    """Write one figure into the folder `out` in every format."""
    paths = tuple(out / f"{name}.{kind}" for kind in kinds)
    for text in figure.findobj(Text):
        if text.get_text():  # names must not be parsed as math; tick labels may be
            text.set_parse_math(False)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # fix the layout; each format would compute it again
    for kind, path in zip(kinds, paths, strict=True):
        with atomic(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=160, transparent=kind == "svg", metadata=UNDATED[kind])
            if kind == "svg":
                temporary.write_text(with_titles(figure, temporary.read_text(encoding="utf-8")), encoding="utf-8")
    return Picture(section, " ".join(figure.get_suptitle().split()), paths)
