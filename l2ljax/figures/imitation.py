"""Imitation: a panel for every task and number of trajectories, a line for every follower.

Two pictures of the same form: the return over the steps of the task, and how often D is right.
"""

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from l2ljax.figures.style import BLACK, CYCLE, GREY, new_figure, save, styled
from l2ljax.imitation.comparison import Cell

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
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=min(len(shown), 5)
    )
    return save(figure, path)
