"""Robust accuracy against eps, and against the number of PGM steps (the paper's Figures 3, 4)."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from l2ljax.evaluation.accuracy import wilson
from l2ljax.figures.sheet import radius
from l2ljax.figures.style import BLACK, CYCLE, GREY, new_figure, percent, save, styled

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
    axes.set_title("Against the radius" + (f" (dotted: ε = {radius(one)})" if one else ""))
    axes.set_xlabel("radius ε of the attack")
    if one:
        axes.axvline(one, color=GREY, linestyle=":", linewidth=1.4)
        axes.xaxis.set_major_locator(FixedLocator([ratio * one for ratio in (0, 0.5, 1, 1.5, 2)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: radius(value)))
    _legend(axes, [{"label": label, **how} for label, how in ATTACKS.values()])


def _against_steps(axes: Axes, one: float | None, found: Mapping[str, Mapping[str, Any]]) -> None:
    percent(axes, "accuracy")
    axes.set_title("Against the number of steps" + (f", ε = {radius(one)}" if one else ""))
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
