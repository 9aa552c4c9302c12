"""Imitation: return over steps of the task, a panel for every task and number of trajectories."""

import pathlib
from collections.abc import Mapping

import numpy as np

from figures.style import BLACK, CYCLE, GREY, new_figure, save, styled
from stability import Cell


@styled
def draw_curves(
    path: pathlib.Path, cells: Mapping[tuple[str, int, str], Cell], steps: int
) -> pathlib.Path:
    """Mean over seeds with their spread; by (task, trajectories, follower); steps of a turn."""
    panels = list(dict.fromkeys((task, n) for task, n, _ in cells))
    names = list(dict.fromkeys(follower for *_, follower in cells))
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = new_figure(4.6 * columns, 3.6 * rows + 0.8, "Imitation: our own design")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (task, n) in zip(grid, panels, strict=False):
        for name, colour in zip(names, CYCLE * 9, strict=False):
            cell = cells.get((task, n, name))
            if cell is None:
                continue
            if cell.curves.shape[1] == 1:
                axes.axhline(cell.final.mean(), color=colour, linestyle="--", label=name)
                continue
            at = steps * np.arange(1, cell.curves.shape[1] + 1)
            seen = ~np.isnan(cell.curves).all(0)
            mean, spread = (of(cell.curves[:, seen], axis=0) for of in (np.nanmean, np.nanstd))
            axes.fill_between(
                at[seen], mean - spread, mean + spread, color=colour, alpha=0.15, lw=0
            )
            axes.plot(at[seen], mean, color=colour, label=name)
            axes.axhline(cell.expert, color=BLACK, linestyle=":")
            axes.axhline(cell.floor, color=GREY, linestyle=":")
        axes.set_title(f"{task}, {n} trajectories" if n > 1 else f"{task}, 1 trajectory")
        axes.set_xlabel("steps of the task, a seed")
        axes.set_ylabel("return")
    shown = {}
    for axes in grid:
        shown |= {
            label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(names))
    return save(figure, path)
