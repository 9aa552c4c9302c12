"""AutoAttack (Croce and Hein 2020): four attacks in a row, an image is robust if all of them fail.

    result = autoattack(rng, f, x, y, eps=8/255)
    print(result.accuracy)      # {"clean": ..., "apgd-ce": ..., "apgd-t": ..., ...}

f maps images [B, H, W, C] in [0, 1] to logits; x is NumPy, uint8 or float, and may be larger than
the device: only one batch at a time is on it. Differs from the official code in one thing: what an
image draws depends on its index alone, not on its batch mates or on which images fell before.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from l2ljax.attacks import checks
from l2ljax.attacks.apgd import apgd, apgd_targeted
from l2ljax.attacks.cascade import CLEAN, ROUNDING, OnProgress, Run, State, cascade
from l2ljax.attacks.cw import MOST_STEPS
from l2ljax.attacks.fab import fab_targeted
from l2ljax.attacks.loop import classifier
from l2ljax.attacks.square import square
from l2ljax.ball import NORMS
from l2ljax.names import nearest
from l2ljax.types import Array


class Budget(NamedTuple):
    """How long each attack tries; the defaults are the official ones, and CW's longest search."""

    apgd_steps: int = 100
    fab_steps: int = 100
    targets: int = 9
    square_queries: int = 5000
    eot: int = 20
    cw_steps: int = MOST_STEPS


OFFICIAL = Budget()
"""Of `standard` and of `rand` (github.com/fra31/auto-attack)."""

VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "quick": ("apgd-ce", "apgd-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
"""The attacks of each version. `quick` is an upper bound on `standard`; `rand` averages over the
randomness of f(x, rng), a classifier that takes a key."""


def _apgd(loss: str, budget: Budget, classes: int, eot: int) -> list[Run]:
    play = partial(apgd, loss=loss, steps=budget.apgd_steps, eot=eot)
    return [Run(f"apgd-{loss}", play, cost=3.0 * budget.apgd_steps * max(eot, 1))]


def _targeted(name: str, play: Callable, steps: int, budget: Budget, classes: int) -> list[Run]:
    ranks = range(2, 2 + min(budget.targets, classes - 1))
    return [Run(name, partial(play, rank=r), draw=r, cost=4.0 * steps) for r in ranks]


PARTS: dict[str, Callable[[Budget, int, int], list[Run]]] = {
    "apgd-ce": partial(_apgd, "ce"),
    "apgd-dlr": partial(_apgd, "dlr"),
    "apgd-t": lambda budget, classes, eot: _targeted(
        "apgd-t",
        partial(apgd_targeted, steps=budget.apgd_steps, eot=eot),
        budget.apgd_steps,
        budget,
        classes,
    ),
    "fab-t": lambda budget, classes, eot: _targeted(
        "fab-t", partial(fab_targeted, steps=budget.fab_steps), budget.fab_steps, budget, classes
    ),
    "square": lambda budget, classes, eot: [
        Run("square", partial(square, queries=budget.square_queries), cost=budget.square_queries)
    ],
}
"""The attacks by their official names: (budget, classes, eot) -> runs, one per target."""


class Result(NamedTuple):
    """What is left: adversarial images, which images stand, accuracy after each attack.

    x_adv holds the image itself where none was found. `version` says what was run; a `quick`
    accuracy is an upper bound. `warnings` are the lines of `checks`; `refused` counts images that
    true float32 misclassifies but that left the ball or the box or were not finite.
    """

    x_adv: np.ndarray
    robust: np.ndarray
    accuracy: dict[str, float]
    version: str
    warnings: tuple[str, ...]
    refused: int


def autoattack(
    rng: Array,
    f: Callable[..., Array],
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    norm: str = "linf",
    version: str = "standard",
    attacks: Sequence[str] | None = None,
    batch_size: int = 250,
    state: State | None = None,
    on_progress: OnProgress | None = None,
    budget: Budget = OFFICIAL,
    f32: Callable[..., Array] | None = None,
) -> Result:
    """x_adv, per-image robust flags, and the accuracy after each attack of the version or list.

    `state` is what `on_progress` was last given; with the same arguments the result is that of an
    uninterrupted run. `f32` is the classifier in float32 where f itself computes in less.
    """
    if version not in VERSIONS:
        raise ValueError(nearest("version", version, VERSIONS))
    names = tuple(VERSIONS[version] if attacks is None else attacks)
    x, y = _checked(x, y, eps, norm, batch_size)
    f, eot = classifier(f), budget.eot if version == "rand" else 0
    judge = f if f32 is None else classifier(f32)
    if eot:
        judge = Partial(_mean_logits, judge, jax.random.split(jax.random.fold_in(rng, EOT), eot))
    sample = checks.first_batch(x, y, batch_size)
    classes = checks.classes_of(judge, sample, y)
    runs = plan(names, budget, classes, eot=eot)
    warnings = () if eot else checks.before(f, sample, names, budget.targets)
    state = cascade(
        rng,
        f,
        x,
        y,
        runs,
        eps=eps,
        norm=norm,
        batch_size=batch_size,
        keep=True,
        state=state,
        on_progress=on_progress,
        f32=judge,
    )
    accuracy = after_each(state, runs)
    warnings += tuple(filter(None, [checks.square_helps(accuracy)]))
    label = version if attacks is None else "+".join(names)
    return Result(state.x_adv, state.robust, accuracy, label, warnings, state.refused)


EOT = 0x656F74
"""Keeps the keys of the judge of a random classifier apart from those of the attacks."""


def _mean_logits(f, keys, x):
    return sum(f(x, key) for key in keys) / len(keys)


def plan(names: Sequence[str], budget: Budget, classes: int, *, eot: int = 0) -> list[Run]:
    """The runs of those attacks in that order, one per target where an attack has targets."""
    for name in names:
        if name not in PARTS:
            raise ValueError(nearest("attack", name, PARTS))
        if eot and not name.startswith("apgd"):
            raise ValueError(f"{name} cannot attack a classifier f(x, rng): rand has apgd alone")
    return [run for name in names for run in PARTS[name](budget, classes, eot)]


def after_each(state: State, runs: Sequence[Run]) -> dict[str, float]:
    """The accuracy on clean images and after each attack, by its name."""
    return {"clean": state.after(CLEAN)} | {
        run.name: state.after(number) for number, run in enumerate(runs)
    }


def _checked(
    x: np.ndarray, y: np.ndarray, eps: float, norm: str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be positive")
    if norm not in NORMS:
        raise ValueError(nearest("norm", norm, NORMS))
    if not 0 < eps < np.inf or (norm == "linf" and eps > 1):
        raise ValueError(f"eps={eps} is outside (0, 1]; pixels live in [0, 1]")
    if x.ndim != 4 or not len(x):
        raise ValueError(f"x must be images [N, H, W, C], N > 0; it is {list(x.shape)}")
    if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"y must be {len(x)} integer labels; it is {list(y.shape)} {y.dtype}")
    if x.dtype != np.uint8:
        if not np.issubdtype(x.dtype, np.floating):
            raise ValueError(f"x must be uint8, or float in [0, 1]; it is {x.dtype}")
        low, high = float(x.min()), float(x.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise ValueError(f"images must lie in [0, 1]; they lie in [{low:g}, {high:g}]")
    return x, y
