"""How a plot looks: one panel, for light and dark pages. The only user of matplotlib."""

import io
import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DOTS_PER_INCH = 160
# Inches. A phone shows the letters of a plot of this width large enough to read; one that stands
# alone on a desktop's page is wide.
WIDTH, WIDE = 4.6, 9.6
SHORT_NAME = 22  # characters; two such names fit beside one another in a legend
LEGEND_ROW = 0.19  # inches


class Theme(NamedTuple):
    """colours: distinguishable for the colour-blind (Okabe and Ito 2008), in this order."""

    background: str
    ink: str
    faint: str
    colours: tuple[str, ...]


__all__ = [
    "Axes", "DARK", "LIGHT", "LINES", "MARKERS", "Plot", "Theme", "WIDE", "WIDTH", "bounds",
    "legend", "png",
]

LIGHT = Theme(
    "#ffffff", "#1c1c1c", "#8a8a8a",
    ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
)
DARK = Theme(
    "#17191c", "#e8e6e3", "#8f959c",
    ("#56B4E9", "#E69F00", "#2DBE93", "#CC79A7", "#F0E442", "#E8743B"),
)
# Colour is never the only difference: each has a line and a marker of its own.
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")

Draw = Callable[[Axes, Theme], None]


class Plot(NamedTuple):
    """A plot that `png` draws. name: of the file; question: what it answers; note: how to read it;
    height: in inches, without a legend's later rows.
    """

    name: str
    question: str
    note: str
    draw: Draw
    height: float = 3.0


@cache
def png(plot: Plot, theme: Theme = LIGHT, width: float = WIDTH) -> bytes:
    """The plot as a PNG file."""
    with matplotlib.rc_context(_style(theme)):
        figure = Figure(figsize=(width, plot.height), layout="constrained")
        plot.draw(figure.subplots(), theme)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
        return file.getvalue()


def _style(theme: Theme) -> dict:
    return {
        "font.family": "DejaVu Sans", "font.size": 10, "legend.fontsize": 9,
        "text.parse_math": False,  # labels are foreign text: a $ in a folder's name is a $
        "figure.facecolor": theme.background, "axes.facecolor": theme.background,
        "savefig.facecolor": theme.background, "legend.frameon": False,
        "text.color": theme.ink, "axes.labelcolor": theme.ink, "axes.edgecolor": theme.faint,
        "xtick.color": theme.ink, "ytick.color": theme.ink, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": theme.faint,
        "grid.alpha": 0.25, "grid.linewidth": 0.6, "lines.linewidth": 1.6,
    }


def bounds(low: float, value: float, high: float) -> list[list[float]]:
    """The two arms of an error bar, 0 where the interval's end is unknown."""
    return [[max(0.0, end) if math.isfinite(end) else 0.0] for end in (value - low, high - value)]


def legend(axes: Axes, entries: int) -> None:
    """A legend above the panel, out of the data's way, if there is more than one thing to name.

    In two columns where the names are short; the figure grows by the rows beyond two, so that the
    panel does not shrink.
    """
    handles, names = axes.get_legend_handles_labels()
    if entries < 2 or not names:
        return
    columns = 2 if max(map(len, names)) <= SHORT_NAME else 1
    rows = -(-len(names) // columns)
    axes.figure.set_figheight(axes.figure.get_figheight() + LEGEND_ROW * max(0, rows - 2))
    axes.figure.legend(
        handles, names, loc="outside upper left", ncols=columns, borderaxespad=0.2,
        columnspacing=1.2, handlelength=2.2,
    )
