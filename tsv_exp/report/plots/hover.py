"""Exact values that a browser shows when the mouse rests on a mark: titles in the SVG, no script."""

import re
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RADIUS = 6  # points around a mark

_notes: "WeakKeyDictionary[Figure, list[tuple[Axes, float, float, str]]]" = WeakKeyDictionary()


def note(axes: Axes, marks: Iterable[tuple[float, float, str]]) -> None:
    """Remember texts for points (x, y, text) of the axes, in its data's units."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    _notes.setdefault(figure, []).extend((axes, x, y, text) for x, y, text in marks)


def with_titles(figure: Figure, svg: str) -> str:
    """The SVG of a figure as it was last laid out, with an invisible circle and its text on every point."""
    scale, height = 72 / figure.dpi, 72 * figure.get_figheight()
    circles = []
    for axes, x, y, text in _notes.get(figure, ()):
        left, up = axes.transData.transform((x, y)) * scale
        circle = f'<circle cx="{left:.1f}" cy="{height - up:.1f}" r="{RADIUS}" fill="#fff" fill-opacity="0">'
        circles.append(f"{circle}<title>{escape(text)}</title></circle>")
    return re.sub(r"</svg>\s*$", lambda end: "\n".join([*circles, end[0]]), svg)
