"""The style of plots: a palette for colour blindness, light and dark pages, and print."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from textwrap import wrap
from typing import Any

# matplotlib's Agg canvas needs no display; figures are made without pyplot, which would keep them in a global registry.
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette (Color Universal Design) without black and yellow, which vanish on one of the two pages.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A8A8A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES = tuple(dash for dash in ("-", "--", ":") for _ in PALETTE)
NEUTRAL = PALETTE[6]
NARROW = 4.1  # width in inches that a phone shows without scrolling
LETTERS = 10  # characters of a title per inch
INK = "#010203"  # the page replaces it in SVGs by the text's colour
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
    """Apply our matplotlib settings inside this context only."""
    with rc_context(SETTINGS):
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def line_styles(labels: Sequence[str], ordered: bool = False) -> dict[str, dict[str, Any]]:
    """Label -> colour and marker; with more labels than colours, lines become dashed.

    `ordered` labels (values of one parameter) take colours from a colour map instead.
    """
    scale = [colormaps["viridis"](0.2 + 0.65 * at / max(1, len(labels) - 1)) for at in range(len(labels))]
    looks = zip(scale if ordered else cycle(PALETTE), cycle(MARKERS), cycle("-" if ordered else DASHES), strict=False)
    return {label: _look(*look) for label, look in zip(labels, looks, strict=False)}


def row_styles(rows: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Label -> style, the same in every plot of a report: the colour is the method's.

    Args:
        rows: (label, method) for every row of the report.
    """
    methods: dict[str, list[str]] = {}
    for label, method in dict.fromkeys(rows):
        methods.setdefault(method, []).append(label)
    found = {}
    for i, labels in enumerate(methods.values()):
        for j, label in enumerate(labels):
            dash = DASHES[(i + j * len(PALETTE)) % len(DASHES)]
            found[label] = _look(PALETTE[i % len(PALETTE)], MARKERS[(i + j) % len(MARKERS)], dash)
    return found


def _look(colour: Any, marker: str, dash: str) -> dict[str, Any]:
    return {"color": colour, "marker": marker, "linestyle": dash, "markersize": 4.5, "linewidth": 1.6}


def readable_on(colour: Sequence[float]) -> str:
    """Black or white, whichever stands out more from a colour (contrast ratio of WCAG 2.2, section 1.4.3)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "black" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "white"


def locator(count: int = 7) -> MaxNLocator:
    """About `count` ticks at steps of 1, 2, 2.5 or 5 times a power of ten."""
    return MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10])


def entitle(fig: Figure, title: str) -> None:
    """Set the figure's title at the left, which is visible on a narrow screen."""
    width = max(20, int(fig.get_figwidth() * LETTERS))
    fig.suptitle("\n".join(wrap(title, width)), x=0.01, horizontalalignment="left", fontweight="bold")


def legend_beside(axes: Axes, narrow: bool = False) -> None:
    """Place the legend to the right of the axes, or below them in a narrow plot."""
    if narrow:
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.24), fontsize=8)
    else:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
