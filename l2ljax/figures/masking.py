"""The loss surface around a few images: along the gradient's sign and along random signs.

Rows are classifiers, so that a masked one can be held against an honest one. The l_inf ball is a
diamond here: where both signs meet in a pixel their steps add up.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon

from l2ljax.figures.sheet import radius
from l2ljax.figures.style import BLACK, GREY, ORANGE, RED, new_figure, save, styled
from l2ljax.masking import Surface

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
            facecolor="none", edgecolor=BLACK, linestyle="--", label=f"ball of ε = {radius(eps)}"
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
