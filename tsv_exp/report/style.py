"""How the pictures look: a palette that survives colour blindness, light and dark pages, and print."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

# matplotlib's Agg canvas needs no display; figures are made without pyplot, which would keep them in a global registry.
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette (Color Universal Design) without black and yellow, which vanish on one of the two pages.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A8A8A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
SINGLE, PER_TASK, REFERENCE = PALETTE[0], PALETTE[1], PALETTE[6]
INK = "#010203"  # the page replaces it in SVG by the text's own colour
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tsv_exp",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#8A8A8A",
    "grid.alpha": 0.3,
    "legend.frameon": False,
    **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], INK),
}


@contextmanager
def styled() -> Iterator[None]:
    """The settings of every picture, and of none other."""
    with rc_context(SETTINGS):
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def line_styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per label a colour and a marker; with more labels than colours the line turns dashed."""
    dashes = [style for style in ("-", "--", ":") for _ in PALETTE]
    looks = zip(cycle(PALETTE), cycle(MARKERS), cycle(dashes))
    return {
        label: {"color": colour, "marker": marker, "linestyle": dash, "markersize": 4.5, "linewidth": 1.6}
        for label, (colour, marker, dash) in zip(labels, islice(looks, len(labels)), strict=True)
    }


def legend_beside(axes: Axes) -> None:
    """The legend right of the axes, where it hides no line."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
