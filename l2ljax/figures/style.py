"""The look that every picture shares, and the few things that each of them does.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. Figures are made without
pyplot, so that none stays open and no display is needed, and without choosing a backend for the
rest of the program.
"""

import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#222222", "#8A8A8A"
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
"""For things without a meaning of their own, in this order."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 130,
}

TITLE = {"fontsize": 13, "fontweight": "bold"}

Line = Mapping[str, float | None]
"""One line of metrics.jsonl."""

styled = matplotlib.rc_context(STYLE)
"""Decorates what draws a figure."""


def new_figure(width: float, height: float, title: str) -> Figure:
    """A figure of so many inches under one headline."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(width, height), layout=layout)
    figure.suptitle(title, x=0.1 / width, ha="left", **TITLE)
    return figure


def save(figure: Figure, path: pathlib.Path) -> pathlib.Path:
    """Write the PNG and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def series(lines: Iterable[Line], name: str, x: str = "epoch") -> tuple[np.ndarray, np.ndarray]:
    """(x, values) of the lines that have both as finite numbers."""
    pairs = [(line.get(x), line.get(name)) for line in lines]
    kept = [(a, b) for a, b in pairs if _finite(a) and _finite(b)]
    both = np.array(kept, float).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def draw_line(axes: Axes, x: np.ndarray, y: np.ndarray, **how: Any) -> None:
    """A line; a single point, which would be invisible, becomes a dot; nothing is nothing."""
    if len(x):
        axes.plot(x, y, **({"marker": "o", "markersize": 5} if len(x) == 1 else {}) | how)


def percent(axes: Axes, label: str) -> None:
    """The y axis from 0 to 100 %; data are shares."""
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_ylabel(label)


def log_scale(axes: Axes) -> None:
    """A logarithmic y axis, if anything drawn is above zero; a rate of exactly 0 has no place."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines] or [[]])
    values = values[values > 0]
    if not len(values):
        return
    axes.set_yscale("log", nonpositive="mask")
    few_decades = values.max() < 100 * values.min()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def epochs(axes: Axes, lines: Iterable[Line]) -> None:
    """The x axis from 0 to the last epoch, whole numbers only."""
    ends, _ = series(lines, "epoch")
    axes.set_xlim(0, 1.02 * ends.max(initial=1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("epoch")
