"""Accuracy against eps and against the number of PGM steps (the paper's Figures 3 and 4).

    found = trace_curves(jax.random.key(0), f, x, y, eps=8 / 255, batch_size=250)
    figures.draw_robustness(path, {"grad_l2l": found}, "grad_l2l on cifar10")

Against eps: FGSM and PGM-100 as evaluate.py runs them, from 0 to twice the radius. Against steps:
PGM from zero with ONE step size for every T, that of pgm10 (eps/3, the paper's 0.01 at 0.03): T
alone changes, the image after T steps lies on the way to the one after more, and the point at 10 is
evaluate.py's pgm10. Above T = 10 evaluate.py's pgmT shrinks its step (2.5 eps/T), which would mix
two causes here; so its pgm100 is not the last point of this curve but the point at `eps` of the
other, and the picture shows it beside this one too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from l2ljax import gate
from l2ljax.attacks import checks, parse, pgd
from l2ljax.attacks.cascade import Run, cascade
from l2ljax.attacks.entrance import check_dataset
from l2ljax.evaluation.results import as_bits
from l2ljax.types import Array

RATIOS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""The radii, over that of the evaluation; in l_inf a radius of 1 holds every image already."""

STEPS = (1, 2, 5, 10, 20, 50, 100)

ATTACKS = ("fgsm", "pgm100")
"""What is shown against eps."""

FIXED_STEP = 1 / 3
"""The one step size against T, over eps."""

OnPoint = Callable[[int, int], None]
"""(points done, points in all), called after every point."""


def trace_curves(
    rng: Array,
    f: Callable[[Array], Array],
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    batch_size: int,
    norm: str = "linf",
    ratios: Sequence[float] = RATIOS,
    steps: Sequence[int] = STEPS,
    progress: OnPoint | None = None,
) -> dict[str, Any]:
    """Points with accuracy and per-image results, JSON-able: by attack against eps, against T.

    `warnings` has the lines that make a point doubtful, each once.
    """
    gate.check_eps(eps, norm)
    x, y, classes = check_dataset(f, x, y, batch_size=batch_size)
    radii = sorted({r * eps if norm == "l2" else min(r * eps, 1.0) for r in ratios})
    total = len(radii) * len(ATTACKS) + len(steps)
    batch_size, done, warnings = min(batch_size, len(x)), 0, {}

    def point(runs: Sequence[Run], radius: float) -> dict[str, Any]:
        nonlocal done
        played = runs if radius > 0 else []
        how = {"eps": radius or eps, "norm": norm, "batch_size": batch_size}
        state = cascade(rng, f, x, y, played, **how)
        robust = state.robust
        warnings.update(dict.fromkeys(checks.warnings_after(state)))
        done += 1
        if progress is not None:
            progress(done, total)
        return {"accuracy": float(robust.mean()), "robust": as_bits(robust)}

    against_eps = {}
    for name in ATTACKS:
        runs = parse(name).runs(classes)
        against_eps[name] = [{"eps": radius, **point(runs, radius)} for radius in radii]
    against_steps = [
        {"steps": t, **point([Run(f"pgm{t}", partial(_pgm, steps=t))], eps)} for t in steps
    ]
    return {
        "eps": eps,
        "norm": norm,
        "images": len(x),
        "against_eps": against_eps,
        "step_size": FIXED_STEP * eps,
        "against_steps": against_steps,
        "warnings": list(warnings),
    }


def _pgm(rng, f, x, y, *, eps, norm, steps):
    how = {"step_size": FIXED_STEP * eps, "start": "zero", "loss": "ce", "norm": norm}
    return pgd(rng, f, x, y, eps=eps, steps=steps, **how)
