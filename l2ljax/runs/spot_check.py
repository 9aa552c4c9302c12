"""A spot check of the selected checkpoint: quick AutoAttack beside the PGM it was selected by.

PGM alone can select a masked model; a cascade that finds far more is the sign of it.
"""

from typing import Any

import jax

from l2ljax.attacks import parse
from l2ljax.evaluation.accuracy import robust
from l2ljax.runs.saved import Saved

GAP = 0.08
"""Honest nets lose 2 to 6 points from PGM to AutoAttack; above 8 something may be masked."""

ATTACKS = ("selection", "autoattack_quick")


def spot_check(saved: Saved, images: int, batch_size: int) -> dict[str, Any]:
    """Both accuracies on the first validation images."""
    x, y = saved.data.x_val[:images], saved.data.y_val[:images]
    f = saved.game.frozen(saved.theta, saved.theta_stats)
    size = min(batch_size, len(x))
    accuracy = {
        name: float(
            robust(
                jax.random.key(0), f, x, y, parse(name), eps=saved.game.eps, batch_size=size
            ).mean()
        )
        for name in ATTACKS
    }
    return {"images": len(x), **accuracy}


def verdict(which: str, check: dict[str, Any]) -> str:
    """One line; a warning if the gap is too wide."""
    pgm, quick = (check[name] for name in ATTACKS)
    line = (
        f"{which}: of {check['images']} validation images {100 * pgm:.1f} % stand the PGM that "
        f"selected it, <= {100 * quick:.1f} % quick AutoAttack"
    )
    if pgm - quick > GAP:
        return f"warning: {line}: {100 * (pgm - quick):.1f} points apart, it may be masked"
    return line
