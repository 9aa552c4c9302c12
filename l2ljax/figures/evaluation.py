"""What an evaluation draws: accuracy against eps and steps, and the loss around images.

Robust accuracy against eps and against the number of PGM steps are the paper's Figures 3 and 4. The
loss surface runs along the gradient's sign and along random signs. Its rows are classifiers, so
that a masked one can be held against an honest one. The l_inf ball is a diamond there: where both
signs meet in a pixel their steps add up.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from l2ljax.evaluation.results import radius_text, wilson
from l2ljax.figures.style import (
    BLACK,
    CYCLE,
    GREY,
    ORANGE,
    RED,
    new_figure,
    percent,
    save,
    styled,
)
from l2ljax.masking import Surface

ATTACKS = {
    "fgsm": ("FGSM", {"linestyle": "--", "marker": "s"}),
    "pgm100": ("PGM-100, step 2.5 ε/100", {"linestyle": "-", "marker": "o"}),
}
"""Each attack against eps: its name, and how it is drawn whatever the net."""

DIAMOND = {"marker": "D", "markersize": 8, "markerfacecolor": "white"}


@styled
def draw_robustness(
    path: pathlib.Path, found: Mapping[str, Mapping[str, Any]], title: str
) -> pathlib.Path:
    """Both curves of each net, by its name, with 95 % Wilson bands; a net has one colour."""
    figure = new_figure(12.5, 5.4, title)
    left, right = figure.subplots(1, 2)
    for i, curves in enumerate(found.values()):
        colour, n = CYCLE[i % len(CYCLE)], curves["images"]
        for attack, points in curves["against_eps"].items():
            _, how = ATTACKS[attack]
            _curve(left, [p["eps"] for p in points], points, n, colour, **how)
        points = curves["against_steps"]
        _curve(right, [p["steps"] for p in points], points, n, colour, marker="o")
        _smaller_step(right, curves, colour)
    radii = {curves["eps"] for curves in found.values()}
    _against_eps(left, min(radii) if len(radii) == 1 else None)
    _against_steps(right, min(radii) if len(radii) == 1 else None, found)
    nets = [Line2D([], [], color=CYCLE[i % len(CYCLE)], label=net) for i, net in enumerate(found)]
    if len(nets) > 1:
        figure.legend(handles=nets, loc="outside lower center", ncols=min(len(nets), 6))
    return save(figure, path)


def _curve(
    axes: Axes, x: Sequence[float], points: Sequence[Mapping], n: int, colour: str, **how: Any
) -> None:
    shares = np.array([point["accuracy"] for point in points])
    low, high = np.array([wilson(share, n) for share in shares]).reshape(-1, 2).T
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, shares, color=colour, markersize=5, **how)


def _smaller_step(axes: Axes, curves: Mapping[str, Any], colour: str) -> None:
    """pgm100 of evaluate.py beside the curve of the fixed step, at 100 steps."""
    for point in curves["against_eps"]["pgm100"]:
        if point["eps"] == curves["eps"]:
            axes.plot(100, point["accuracy"], color=colour, zorder=3, **DIAMOND)


def _against_eps(axes: Axes, one: float | None) -> None:
    percent(axes, "accuracy")
    axes.set_title("Against the radius" + (f" (dotted: ε = {radius_text(one)})" if one else ""))
    axes.set_xlabel("radius ε of the attack")
    if one:
        axes.axvline(one, color=GREY, linestyle=":", linewidth=1.4)
        axes.xaxis.set_major_locator(FixedLocator([ratio * one for ratio in (0, 0.5, 1, 1.5, 2)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: radius_text(value)))
    _legend(axes, [{"label": label, **how} for label, how in ATTACKS.values()])


def _against_steps(axes: Axes, one: float | None, found: Mapping[str, Mapping[str, Any]]) -> None:
    percent(axes, "accuracy")
    axes.set_title("Against the number of steps" + (f", ε = {radius_text(one)}" if one else ""))
    axes.set_xlabel("steps T of PGM")
    axes.set_xscale("log")
    steps = {point["steps"] for curves in found.values() for point in curves["against_steps"]}
    axes.xaxis.set_major_locator(FixedLocator(sorted(steps)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    fixed = {"marker": "o", "label": "PGM, step ε/3 for every T"}
    _legend(axes, [fixed, {"label": ATTACKS["pgm100"][0], "linestyle": "none", **DIAMOND}])


def _legend(axes: Axes, entries: Sequence[Mapping[str, Any]]) -> None:
    # Below the panel, where no curve is.
    lines = [Line2D([], [], **{"color": BLACK, "markersize": 5, **entry}) for entry in entries]
    axes.legend(
        handles=lines,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        borderaxespad=4.5,
        ncols=2,
        handlelength=3,
    )


HEIGHTS = LinearSegmentedColormap.from_list("loss", ["#FFFFFF", "#F6D9A8", ORANGE, RED, "#5A1F00"])
"""White: no loss at all; brown: the largest that is drawn."""

LEVELS = 24

MOST = 97
"""The percentile of all losses at which the colours end: a few extremes would bleach the rest."""


@styled
def draw_surfaces(
    path: pathlib.Path,
    surfaces: Mapping[str, Surface],
    title: str,
    *,
    eps: float,
    names: Sequence[str],
) -> pathlib.Path:
    """One panel per classifier and image; `names` are the images', one scale of colours for all."""
    rows, columns = len(surfaces), len(names)
    figure = new_figure(2.35 * columns + 1.6, 2.45 * rows + 1.5, title)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    losses = np.concatenate([s.loss[:columns].ravel() for s in surfaces.values()])
    finite = losses[np.isfinite(losses)]
    top = max(float(np.percentile(finite, MOST)) if len(finite) else 1.0, 1e-3)
    for line, (name, surface) in zip(panels, surfaces.items(), strict=True):
        for i, axes in enumerate(line):
            _panel(axes, surface, i, top)
        line[0].set_ylabel(f"{name}\nrandom signs (ε)" if name else "random signs (ε)")
    for axes, name in zip(panels[0], names, strict=True):
        axes.set_title(name)
    for axes in panels[-1]:
        axes.set_xlabel("gradient's sign (ε)")
    heights = ScalarMappable(Normalize(0, top), HEIGHTS)
    bar = figure.colorbar(heights, ax=panels, fraction=0.05, pad=0.02, aspect=20, extend="max")
    bar.set_label("cross-entropy (nats)")
    bar.outline.set_visible(False)
    marks = [
        Line2D([], [], color=BLACK, linewidth=1.8, label="decision boundary"),
        Patch(facecolor="none", edgecolor=GREY, hatch="////", label="misclassified"),
        Patch(
            facecolor="none",
            edgecolor=BLACK,
            linestyle="--",
            label=f"ball of ε = {radius_text(eps)}",
        ),
        Line2D([], [], color=BLACK, marker="+", linestyle="", label="the image itself"),
    ]
    figure.legend(handles=marks, loc="outside lower left", ncols=len(marks))
    return save(figure, path)


def _panel(axes: Axes, surface: Surface, i: int, top: float) -> None:
    ticks, reach = surface.ticks, float(surface.ticks[-1])
    # The first axis of the grid is the gradient's: it runs to the right.
    loss = np.minimum(np.nan_to_num(surface.loss[i], nan=top).T, top)
    margin = np.nan_to_num(surface.margin[i]).T
    axes.contourf(ticks, ticks, loss, np.linspace(0, top, LEVELS), cmap=HEIGHTS)
    if margin.min() < 0 < margin.max():
        axes.contour(ticks, ticks, margin, [0.0], colors=BLACK, linewidths=1.8)
    if margin.max() > 0:
        wrong = axes.contourf(ticks, ticks, margin, [0.0, np.inf], colors="none", hatches=["////"])
        wrong.set_edgecolor(GREY)
        wrong.set_linewidth(0.0)
    corners = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    frame = Polygon(corners, fill=False, edgecolor=BLACK, linestyle="--", linewidth=1.0)
    axes.add_patch(frame)
    axes.plot(0, 0, "+", color=BLACK, markersize=8)
    axes.grid(False)
    whole = np.arange(-int(reach), int(reach) + 1)
    axes.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach), xticks=whole, yticks=whole)
