"""Pictures on disk, and as elements of the page."""

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

PHONE = "-narrow"  # ends the name of a picture for phones
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
        """Its SVGs as elements, of which the page shows the one that fits the screen.

        Identifiers are their own, and their ink is the text's colour.
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
    """A picture that somebody else may have drawn: as an image, in which nothing runs and nothing is loaded."""

    @property
    def element(self) -> Markup:
        """The SVGs as data of images, of which the page shows the one that fits the screen."""
        files = [path for path in self.paths if path.suffix == ".svg"]
        return Markup("").join(map(self._image, files, _kinds(files)))

    def _image(self, path: Path, kind: str) -> Markup:
        data = b64encode(path.read_bytes()).decode()
        shown = f' class="{kind}"' if kind else ""
        return Markup(f'<img alt="{escape(self.title)}"{shown} src="data:image/svg+xml;base64,{data}">')


def _kinds(files: Sequence[Path]) -> list[str]:
    """Which of several SVGs are for which screens."""
    return ["" if len(files) == 1 else "narrow" if path.stem.endswith(PHONE) else "broad" for path in files]


def draw_pictures(
    groups: Sequence[Group], out: Path, kinds: Sequence[str] = ("png", "svg"), by_score: bool = False
) -> list[Picture]:
    """Draw what the groups support into the folder `out`, each picture in every kind; as SVG for phones too."""
    with styled():
        return save_pictures(draw(groups, False, by_score), draw(groups, True, by_score), out, kinds)


Drawn = Iterable[tuple[str, str, Figure]]  # section, file name, figure


def save_pictures(broad: Drawn, narrow: Drawn, out: Path, kinds: Sequence[str] = ("png", "svg")) -> list[Picture]:
    """Write figures, and the same for phones as SVG where that is one of the kinds."""
    pictures = [save_picture(*one, out, kinds) for one in broad]
    if "svg" not in kinds:
        return pictures
    phone = [save_picture(section, name + PHONE, figure, out, ("svg",)) for section, name, figure in narrow]
    return [replace(one, paths=(*one.paths, *other.paths)) for one, other in zip(pictures, phone, strict=True)]


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
            if kind == "svg":
                temporary.write_text(with_titles(figure, temporary.read_text(encoding="utf-8")), encoding="utf-8")
    return Picture(section, " ".join(figure.get_suptitle().split()), paths)
