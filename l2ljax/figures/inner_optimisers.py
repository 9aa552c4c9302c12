"""Inner optimisers side by side: loss after T gradients, and how far the learned one is ahead."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from l2ljax.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    new_figure,
    save,
    styled,
)

LEARNED = (RED, PURPLE, ORANGE, BLACK)
HAND_MADE = (BLUE, GREEN, SKY, GREY)
"""Colours: those whose phi is learned are warm and solid, the others cool and dashed."""


@styled
def draw_inner_optimisers(path: pathlib.Path, report: Mapping[str, Any]) -> pathlib.Path:
    """Both panels from what benchmarks/inner_optimisers.py writes as JSON."""
    title = f"Inner optimisers on {report['dataset']}, {report['images']} test images"
    figure = new_figure(12.5, 5.2, title)
    left, right = figure.subplots(1, 2)
    hand_made = [name for name in report["players"] if name not in report["gaps"]]
    colours = dict(zip(report["gaps"], LEARNED * 9, strict=False))
    colours |= dict(zip(hand_made, HAND_MADE * 9, strict=False))
    for name, player in report["players"].items():
        how = {"color": colours[name], "marker": "o", "markersize": 4, "label": name}
        mean, sd = np.array(player["mean"]), np.array(player["sd"])
        steps = np.arange(1, len(mean) + 1)
        left.fill_between(steps, mean - sd, mean + sd, color=how["color"], alpha=0.2, linewidth=0)
        left.plot(steps, mean, **how | ({"linestyle": "--"} if name in hand_made else {}))
    left.set_title("Mean loss, on nets that φ was not trained on")
    left.set_ylabel("cross-entropy (nats)")
    for name, gaps in report["gaps"].items():
        low, gap, high = (np.array([g[key] for g in gaps]) for key in ("low", "gap", "high"))
        steps = [g["steps"] for g in gaps]
        right.fill_between(steps, low, high, color=colours[name], alpha=0.2, linewidth=0)
        right.plot(steps, gap, color=colours[name], marker="o", markersize=4)
    right.axhline(0, color=GREY, linestyle=":", linewidth=1.4)
    right.set_title("Ahead of the rival that is best at that T, with 95 % intervals")
    right.set_ylabel("difference (nats)")
    for axes in (left, right):
        _gradients(axes)
    figure.legend(loc="outside lower center", ncols=min(len(report["players"]), 4))
    return save(figure, path)


def _gradients(axes: Axes) -> None:
    axes.set_xlabel("gradients T")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
