"""How stable imitation was: three measures over seeds, with bootstrap intervals.

Returns are put on the scale on which a policy without training is 0 and the expert's demonstrations
are 1. The spread of the final return is over seeds; the area under the curve is the mean over the
turns; a collapse is a fall below half of the best so far, after 0.9 was first reached, and the next
one counts when 0.9 has been reached again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

REACHED, COLLAPSED = 0.9, 0.5


class Cell(NamedTuple):
    """One follower on one task: curves [seeds, turns] and final returns [seeds], as measured.

    accuracy [seeds, turns] is D's, where there is one.
    """

    curves: np.ndarray
    final: np.ndarray
    floor: float
    expert: float
    accuracy: np.ndarray | None = None


def scaled(returns: np.ndarray, cell: Cell) -> np.ndarray:
    """0 for a policy without training, 1 for the expert; before the first episode's end 0."""
    return np.nan_to_num((returns - cell.floor) / (cell.expert - cell.floor), nan=0.0)


def collapses(curve: np.ndarray) -> int:
    """Of one seed's curve, on that scale."""
    count, high, best = 0, False, 0.0
    for value in curve:
        best = max(best, value)
        if value >= REACHED:
            high = True
        elif high and value < COLLAPSED * best:
            count, high = count + 1, False
    return count


def area(cell: Cell) -> np.ndarray:
    """[seeds]."""
    return scaled(cell.curves, cell).mean(1)


def collapsed(cell: Cell) -> np.ndarray:
    """[seeds]."""
    return np.array([collapses(curve) for curve in scaled(cell.curves, cell)], float)


MEASURES: dict[str, tuple[Callable[[Cell], np.ndarray], Callable[[np.ndarray], Any]]] = {
    "final": (lambda cell: cell.final, lambda v: v.mean(-1)),
    "spread": (lambda cell: cell.final, lambda v: v.std(-1)),
    "area": (area, lambda v: v.mean(-1)),
    "collapses": (collapsed, lambda v: v.mean(-1)),
}
"""By name: a value of every seed, and what is made of them."""

OF_CURVES = ("area", "collapses")
"""What a follower without turns, cloning, has none of."""


def measure(cell: Cell, draws: int) -> dict[str, list[float]]:
    """Each measure with its 95 % interval: the seeds are drawn anew."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(cell.final), (draws, len(cell.final)))
    found = {}
    for name, (of, make) in _measures(cell).items():
        values = of(cell)
        low, high = np.percentile(make(values[rows]), (2.5, 97.5))
        found[name] = [float(make(values)), float(low), float(high)]
    return found


def against(cell: Cell, other: Cell, draws: int) -> dict[str, list[float]]:
    """Each measure minus the other's, whose seeds are drawn independently."""
    rng = np.random.default_rng(0)
    rows, others = (rng.integers(0, len(c.final), (draws, len(c.final))) for c in (cell, other))
    found = {}
    for name, (of, make) in _measures(cell).items():
        a, b = of(cell), of(other)
        low, high = np.percentile(make(a[rows]) - make(b[others]), (2.5, 97.5))
        found[name] = [float(make(a) - make(b)), float(low), float(high)]
    return found


def _measures(cell: Cell) -> dict[str, tuple[Callable, Callable]]:
    turns = cell.curves.shape[1] > 1
    return {name: how for name, how in MEASURES.items() if turns or name not in OF_CURVES}
