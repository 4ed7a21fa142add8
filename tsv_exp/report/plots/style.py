"""How the pictures look: a palette that survives colour blindness, light and dark pages, and print."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

# matplotlib's Agg canvas needs no display; figures are made without pyplot, which would keep them in a global registry.
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette (Color Universal Design) without black and yellow, which vanish on one of the two pages.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A8A8A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES = tuple(dash for dash in ("-", "--", ":") for _ in PALETTE)
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


def line_styles(labels: Sequence[str], ordered: bool = False) -> dict[str, dict[str, Any]]:
    """Per label a colour and a marker; with more labels than colours the line turns dashed.

    `ordered` labels (values of one parameter) take the colours of a scale instead.
    """
    scale = [colormaps["viridis"](0.2 + 0.65 * at / max(1, len(labels) - 1)) for at in range(len(labels))]
    looks = zip(scale if ordered else cycle(PALETTE), cycle(MARKERS), cycle("-" if ordered else DASHES), strict=False)
    return {
        label: {"color": colour, "marker": marker, "linestyle": dash, "markersize": 4.5, "linewidth": 1.6}
        for label, (colour, marker, dash) in zip(labels, looks, strict=False)
    }


def entitle(fig: Figure, title: str) -> None:
    """The figure's title, at the left: on a narrow screen the right is out of sight."""
    fig.suptitle(title, x=0.01, horizontalalignment="left", fontweight="bold")


def legend_beside(axes: Axes) -> None:
    """The legend right of the axes, where it hides no line."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
