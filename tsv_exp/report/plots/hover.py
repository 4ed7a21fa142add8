"""Exact values shown by a browser on hover: titles in the SVG, without scripts."""

import re
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RADIUS = 6  # radius around a mark in points

_notes: "WeakKeyDictionary[Figure, list[tuple[Axes, float, float, str]]]" = WeakKeyDictionary()


def note(axes: Axes, marks: Iterable[tuple[float, float, str]]) -> None:
    """Record texts for points (x, y, text) in data coordinates of the axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    _notes.setdefault(figure, []).extend((axes, x, y, text) for x, y, text in marks)


def with_titles(figure: Figure, svg: str) -> str:
    """Add to a figure's SVG an invisible circle with its text at every recorded point, by the last layout."""
    scale, height = 72 / figure.dpi, 72 * figure.get_figheight()
    circles = []
    for axes, x, y, text in _notes.get(figure, ()):
        left, up = axes.transData.transform((x, y)) * scale
        circle = f'<circle cx="{left:.1f}" cy="{height - up:.1f}" r="{RADIUS}" fill="#fff" fill-opacity="0">'
        circles.append(f"{circle}<title>{escape(text)}</title></circle>")
    return re.sub(r"</svg>\s*$", lambda end: "\n".join([*circles, end[0]]), svg)
