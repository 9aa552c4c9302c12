"""The look that every picture shares, and the sheet of perturbations (the paper's Figure 5).

Colours are Okabe and Ito's, which colour-blind readers can tell apart. Figures are made without
pyplot, so that none stays open, no display is needed, and a notebook's own backend is left alone.

The sheet shows what each attack adds to an image, and what comes of it:

    draw_sheet(pathlib.Path("runs/a"), pathlib.Path("sheet.png"), columns=8)    # of a run

It is laid out in inches: an automatic layout of seventy small axes is slow and does not line them
up.
"""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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

from l2ljax.attacks import fgsm, pgd
from l2ljax.ball import scale
from l2ljax.bilevel import evaluating
from l2ljax.evaluation.results import radius_text
from l2ljax.runs.run import load_data, load_run
from l2ljax.types import Problem

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


CELL, GAP, LEFT, TOP, CAPTION, BETWEEN, EDGE = 0.92, 0.1, 1.5, 0.9, 0.24, 0.14, 0.14
"""Inches: an image, the space beside it, the column of names, the title, a caption, and so on."""

LEGEND = (
    "Above: the true class. Below an image: what the classifier says, green if right and "
    "✗ in red if wrong.\nδ is amplified: grey is no change, white +ε, black −ε; ε = {}."
)


def draw_sheet(workdir: pathlib.Path, path: pathlib.Path, columns: int) -> pathlib.Path:
    """The first test images of a run's best checkpoint under FGSM, PGM-10 and its own attacker."""
    run = load_run(workdir, "best")
    data, game = load_data(run.config, None), run.game
    state, eps, f = run.state, game.eps, run.classifier
    x, y = scale(jnp.asarray(data.x_test[:columns])), jnp.asarray(data.y_test[:columns])
    key = jax.random.key(0)

    seen = evaluating(game.apply, run.theta_stats)
    ell = game.method.attack_loss(seen, run.theta, run.theta_stats, x, y)
    problem = Problem(ell, x, y, eps, jax.random.split(key, len(x)), train=False)
    own = game.method.solver.solve(problem, run.theta, state.phi, state.phi_stats)
    strength = {"eps": eps, "steps": 10, "step_size": eps / 3, "start": "zero", "loss": "ce"}
    rows = {
        "FGSM": fgsm(key, f, x, y, eps=eps) - x,
        "PGM-10": pgd(key, f, x, y, **strength) - x,
        f"{run.config['method']} attacker": own.delta,
    }
    predictions = {name: np.asarray(f(x + delta).argmax(-1)) for name, delta in rows.items()}
    predictions["clean"] = np.asarray(f(x).argmax(-1))
    return draw_perturbations(
        path,
        np.asarray(x),
        {name: np.asarray(delta) for name, delta in rows.items()},
        np.asarray(y),
        predictions,
        eps=eps,
        class_names=data.class_names,
    )


@styled
def draw_perturbations(
    path: pathlib.Path,
    x: np.ndarray,
    rows: Mapping[str, np.ndarray],
    y: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    *,
    eps: float,
    class_names: Sequence[str],
) -> pathlib.Path:
    """Clean images; for each attack its delta, stretched to the grey range, and x + delta.

    rows: attack -> delta [N, H, W, C]; predictions: attack -> class [N], "clean" for x itself.
    """
    height = TOP + 2 * CAPTION + CELL + len(rows) * (BETWEEN + 2 * CELL + GAP + CAPTION)
    page = Page(max(LEFT + len(x) * (CELL + GAP), 8.0), height)
    page.write(
        EDGE, EDGE, "What each attack adds to an image, and what comes of it", va="top", **TITLE
    )
    page.write(EDGE, EDGE + 0.3, LEGEND.format(radius_text(eps)), va="top")
    for i, label in enumerate(y):
        page.caption(i, TOP + CAPTION / 2, class_names[int(label)])
    top = page.images(TOP + CAPTION, "clean image", x)
    top = _verdicts(page, top, predictions.get("clean"), y, class_names)
    for attack, delta in rows.items():
        top = page.images(top + BETWEEN, f"{attack}\nδ", delta / eps * 0.5 + 0.5)
        top = page.images(top + GAP, "attacked\nimage", x + delta)
        top = _verdicts(page, top, predictions.get(attack), y, class_names)
    return save(page.figure, path)


def column(i: int) -> float:
    """The middle of column i, in inches from the left."""
    return LEFT + i * (CELL + GAP) + CELL / 2


def _verdicts(
    page: "Page",
    top: float,
    found: np.ndarray | None,
    y: np.ndarray,
    class_names: Sequence[str],
) -> float:
    for i, guess in enumerate([] if found is None else found):
        word = class_names[int(guess)]
        if guess == y[i]:
            page.caption(i, top + CAPTION / 2, word, color=GREEN)
        else:
            page.caption(i, top + CAPTION / 2, f"✗ {word}", color=RED, fontweight="bold")
    return top + CAPTION


class Page:
    """A figure on which things are placed in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure, self.width, self.height = Figure(figsize=(width, height)), width, height

    def write(self, left: float, top: float, text: str, **how: Any) -> None:
        """Text beside the point, centred on its height unless `how` says otherwise."""
        how = {"va": "center", "fontsize": 9.0, "color": BLACK} | how
        self.figure.text(left / self.width, 1 - top / self.height, text, **how)

    def caption(self, i: int, top: float, text: str, **how: Any) -> None:
        """Text in the middle of column i; a long name in smaller letters."""
        self.write(column(i), top, text, ha="center", fontsize=min(9.0, 95 / len(text)), **how)

    def images(self, top: float, name: str, pixels: np.ndarray) -> float:
        """A row of images under that height, with its name at the left; returns where it ends."""
        self.write(LEFT - GAP, top + CELL / 2, name, ha="right")
        for i, image in enumerate(np.clip(pixels, 0, 1)):
            left = (column(i) - CELL / 2) / self.width
            bottom = 1 - (top + CELL) / self.height
            axes = self.figure.add_axes(
                (left, bottom, CELL / self.width, CELL / self.height), xticks=[], yticks=[]
            )
            axes.spines[:].set(visible=True, color=GREY, linewidth=0.6)
            grey = image.shape[-1] == 1
            axes.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=1)
        return top + CELL
