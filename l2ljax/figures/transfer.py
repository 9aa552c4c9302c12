"""The black-box matrices as heat maps: who withstands images that were crafted on whom."""

import math
import pathlib
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from l2ljax.evaluation.accuracy import wilson
from l2ljax.figures.style import BLACK, BLUE, GREY, RED, new_figure, save, styled

SHADES = LinearSegmentedColormap.from_list(
    "robust", [(0, "#FFFFFF"), (0.5, "#9CC9E4"), (0.82, BLUE), (1, "#003F63")]
)
"""White: no image stands; dark blue: all of them do."""

GAP, CELL = 0.25, (1.12, 0.62)
"""Between the matrix and what stands beside it, in cells; inches of a cell."""

LETTER, HEADLINE, PAGE = 0.085, 0.108, 20.0
"""Inches of a letter of a name and of the headline, and of as wide a page as panels fill."""

OWN = "the surrogate itself"

DARK = 0.72
"""The share above which a cell is dark enough for white letters."""


@styled
def draw_transfer(path: pathlib.Path, report: dict[str, Any]) -> pathlib.Path:
    """One panel per attack, drawn from what transfer.py writes as JSON.

    Rows are targets, columns surrogates; clean accuracies at the left, each surrogate's own
    white-box accuracy below its column; white-box cells have a frame.
    """
    attacks = list(dict.fromkeys((r["attack"], r["eps"]) for r in report["results"]))
    targets, surrogates = report["targets"], report["surrogates"]
    title = (
        f"{report['dataset']}, {report['images']} {report['split']} images: columns were attacked, "
        "rows classify"
    )
    slant = 0.5 * LETTER * max(map(len, surrogates))
    margin = LETTER * max(map(len, [*targets, OWN])) + slant
    width = margin + CELL[0] * (len(surrogates) + 1 + GAP)
    height = 0.9 + slant + CELL[1] * (len(targets) + 1 + GAP)
    across = max(1, min(len(attacks), int(PAGE / width)))
    down = math.ceil(len(attacks) / across)
    least = 0.3 + HEADLINE * len(title)
    figure = new_figure(max(across * width + 1.0, least), down * height + 0.6, title)
    panels = figure.subplots(down, across, squeeze=False)
    for axes, attack in zip(panels.flat, attacks, strict=False):
        _matrix(axes, report, *attack)
    for axes in panels.flat[len(attacks) :]:
        axes.remove()
    scale = ScalarMappable(Normalize(0, 1), SHADES)
    bar = figure.colorbar(scale, ax=[*figure.axes], fraction=0.03, pad=0.02, aspect=25)
    bar.set_label("right before and after the attack")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    bar.outline.set_visible(False)
    return save(figure, path)


def _matrix(axes: Axes, report: dict[str, Any], attack: str, eps: str) -> None:
    targets, surrogates, images = report["targets"], report["surrogates"], report["images"]
    cells = {(r["target"], r["surrogate"]): r for r in report["results"] if r["attack"] == attack}
    last = len(targets) + GAP
    for i, target in enumerate(targets):
        _cell(axes, -1 - GAP, i, report["nets"][target]["accuracy"], images)
        for j, surrogate in enumerate(surrogates):
            found = cells[target, surrogate]
            _cell(axes, j, i, found["accuracy"], images, framed=found["white_box"])
    for j, surrogate in enumerate(surrogates):
        _cell(axes, j, last, cells[surrogate, surrogate]["accuracy"], images, framed=True)
    axes.set(xlim=(-1.5 - GAP, len(surrogates) - 0.5), ylim=(last + 0.5, -0.5))
    axes.set_xticks([-1 - GAP, *range(len(surrogates))], ["clean", *surrogates])
    axes.set_yticks([*range(len(targets)), last], [*targets, OWN])
    slanted = max(map(len, surrogates)) > 12
    how = {"rotation": 30, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    for label in axes.get_xticklabels():
        label.set(**how)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    axes.set_title(f"{attack}, ε = {eps}", pad=10)
    axes.set_xlabel("framed: white-box", color=RED)


def _cell(
    axes: Axes, x: float, y: float, share: float, images: int, *, framed: bool = False
) -> None:
    """One accuracy and, smaller, its 95 % Wilson interval."""
    edge = {"ec": RED, "lw": 2.2, "zorder": 3} if framed else {"ec": GREY, "lw": 0.5}
    half = 0.46 if framed else 0.5
    axes.add_patch(Rectangle((x - half, y - half), 2 * half, 2 * half, fc=SHADES(share), **edge))
    colour, (low, high) = "white" if share > DARK else BLACK, wilson(share, images)
    place = {"ha": "center", "va": "center", "color": colour, "zorder": 4}
    axes.text(x, y - 0.13, f"{100 * share:.1f}", fontsize=11, fontweight="bold", **place)
    axes.text(x, y + 0.24, f"{100 * low:.0f} – {100 * high:.0f}", fontsize=8, **place)
