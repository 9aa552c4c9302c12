"""Several side by side: runs, who withstands whose images, inner optimisers, followers.

Imitation has a panel for every task and number of trajectories, and a line for every follower: the
return over the steps of the task, and how often D is right.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from l2ljax.evaluation.results import wilson
from l2ljax.evaluation.transfer import OWN
from l2ljax.figures.style import (
    BLACK,
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Line,
    draw_line,
    new_figure,
    percent,
    save,
    series,
    styled,
)
from l2ljax.imitation.comparison import Cell

UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


@styled
def draw_comparison(
    path: pathlib.Path,
    curves: Mapping[str, Sequence[Line]],
    table: Mapping[str, Mapping[str, tuple[float, float, float]]],
) -> pathlib.Path:
    """Validation robust accuracy against training time, and test accuracies with intervals.

    curves: run -> its lines; table: run -> attack -> (accuracy, low, high). A run has one colour.
    """
    runs = [*curves, *(run for run in table if run not in curves)]
    colours = {run: CYCLE[i % len(CYCLE)] for i, run in enumerate(runs)}
    bars = sum(len(row) for row in table.values())
    width = 13 + 0.25 * max(0, bars - 16)
    figure = new_figure(width, 5.4, "Robust accuracy against training time, and on the test set")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    _against_time(left, curves, colours)
    _bars(right, table, colours)
    names = [Patch(color=colour, label=run) for run, colour in colours.items()]
    if names:
        figure.legend(handles=names, loc="outside lower center", ncols=min(len(names), 6))
    return save(figure, path)


def _against_time(axes: Axes, curves: Mapping[str, Sequence[Line]], colours: dict) -> None:
    drawn = {run: series(lines, "val/robust", "seconds/train") for run, lines in curves.items()}
    longest = max((x.max() for x, _ in drawn.values() if len(x)), default=0.0)
    unit, word = next((size, word) for size, word in UNITS if longest > 3 * size or size == 1)
    for run, (x, y) in drawn.items():
        draw_line(axes, x / unit, y, color=colours[run])
        if len(x):
            i = int(y.argmax())
            axes.scatter(x[i] / unit, y[i], s=150, c=colours[run], marker="*", ec="white", zorder=4)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"training time ({word})")
    percent(axes, "robust accuracy")
    axes.set_title("Validation, by time spent on training steps (star: best)")


def _bars(axes: Axes, table: Mapping[str, Mapping[str, tuple]], colours: dict) -> None:
    attacks = list(dict.fromkeys(attack for row in table.values() for attack in row))
    width = 0.84 / max(len(table), 1)
    for i, (run, row) in enumerate(table.items()):
        aside = (i - (len(table) - 1) / 2) * width
        at = np.array([attacks.index(attack) + aside for attack in row])
        accuracy, low, high = np.array([*row.values()], float).reshape(-1, 3).T
        axes.bar(at, accuracy, 0.92 * width, color=colours[run])
        whiskers = np.maximum([accuracy - low, high - accuracy], 0)
        axes.errorbar(at, accuracy, whiskers, fmt="none", ecolor=BLACK, capsize=3, linewidth=1.2)
        for where, share, top in zip(at, accuracy, high, strict=True):
            axes.annotate(
                f"{100 * share:.0f}", (where, top), (0, 3), textcoords="offset points", ha="center"
            )
    axes.set_xticks(range(len(attacks)), [name.replace("+", "+\n") for name in attacks])
    axes.tick_params(axis="x", length=0)
    axes.grid(False, axis="x")
    percent(axes, "accuracy")
    axes.set_ylim(0, 1.08)
    axes.set_title("Test set, by attack, with 95 % intervals")


SHADES = LinearSegmentedColormap.from_list(
    "robust", [(0, "#FFFFFF"), (0.5, "#9CC9E4"), (0.82, BLUE), (1, "#003F63")]
)
"""White: no image stands; dark blue: all of them do."""

GAP, CELL = 0.25, (1.12, 0.62)
"""Between the matrix and what stands beside it, in cells; inches of a cell."""

LETTER, HEADLINE, PAGE = 0.085, 0.108, 20.0
"""Inches of a letter of a name and of the headline, and of as wide a page as panels fill."""

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
        axes.set_xlabel("gradients T")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=min(len(report["players"]), 4))
    return save(figure, path)


Cells = Mapping[tuple[str, int, str], Cell]
"""By task, number of trajectories and follower."""


@styled
def draw_imitation(path: pathlib.Path, cells: Cells, steps: int) -> pathlib.Path:
    """Mean returns over seeds with their spread; `steps` of the task a turn."""
    figure, panels = _panels(cells, "Imitation (our own design): return, spread over seeds")
    for axes, key in panels:
        for name, colour, cell in _followers(cells, key):
            if cell.curves.shape[1] == 1:
                axes.axhline(cell.final.mean(), color=colour, linestyle="--", label=name)
            else:
                _line(axes, cell.curves, steps, colour, name)
            axes.axhline(cell.expert, color=BLACK, linestyle=":", label="expert")
            axes.axhline(cell.floor, color=GREY, linestyle=":", label="without training")
        axes.set_ylabel("return")
    return _finish(figure, panels, path)


@styled
def draw_accuracies(path: pathlib.Path, cells: Cells, steps: int) -> pathlib.Path:
    """How often D is right about a pair, where there is a D."""
    figure, panels = _panels(cells, "Imitation (our own design): accuracy of the discriminator")
    for axes, key in panels:
        for name, colour, cell in _followers(cells, key):
            if cell.accuracy is not None:
                _line(axes, cell.accuracy, steps, colour, name)
        axes.axhline(0.5, color=GREY, linestyle=":", label="guessing")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylabel("pairs told right")
    return _finish(figure, panels, path)


def _panels(cells: Cells, title: str):
    keys = list(dict.fromkeys((task, n) for task, n, _ in cells))
    columns = min(len(keys), 4)
    rows = -(-len(keys) // columns)
    figure = new_figure(max(4.6 * columns, 7), 3.6 * rows + 0.9, title)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(keys) :]:
        axes.set_visible(False)
    for axes, (task, n) in zip(grid, keys, strict=False):
        axes.set_title(f"{task}, {n} trajectories" if n > 1 else f"{task}, 1 trajectory")
        axes.set_xlabel("thousand steps of the task, a seed")
    return figure, list(zip(grid, keys, strict=False))


def _followers(cells: Cells, key: tuple[str, int]):
    names = dict.fromkeys(follower for *_, follower in cells)
    for name, colour in zip(names, CYCLE * 9, strict=False):
        if (*key, name) in cells:
            yield name, colour, cells[*key, name]


def _line(axes: Axes, values: np.ndarray, steps: int, colour: str, name: str) -> None:
    """[seeds, turns]; before the first episode's end there is no return."""
    seen = ~np.isnan(values).all(0)
    at = steps / 1000 * np.arange(1, values.shape[1] + 1)[seen]
    mean, spread = (of(values[:, seen], axis=0) for of in (np.nanmean, np.nanstd))
    axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
    axes.plot(at, mean, color=colour, label=name)


def _finish(figure, panels, path: pathlib.Path) -> pathlib.Path:
    shown = {}
    for axes, _ in panels:
        lines, labels = axes.get_legend_handles_labels()
        shown |= dict(zip(labels, lines, strict=True))
    place = {"loc": "outside lower center", "ncols": min(len(shown), 5)}
    figure.legend(shown.values(), shown.keys(), **place)
    return save(figure, path)
