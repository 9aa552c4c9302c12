"""Several runs side by side: robust accuracy against training time, and the test accuracies."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from l2ljax.figures.style import (
    BLACK,
    CYCLE,
    Line,
    draw_line,
    new_figure,
    percent,
    save,
    series,
    styled,
)

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
