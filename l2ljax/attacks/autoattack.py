"""AutoAttack (Croce and Hein 2020): four attacks in a row, an image is robust if all of them fail.

    result = autoattack(rng, f, x, y, eps=8/255)
    print(result.accuracy)      # {"clean": ..., "apgd-ce": ..., "apgd-t": ..., ...}

f maps images [B, H, W, C] in [0, 1] to logits; x is NumPy, uint8 or float, and may be larger than
the device: only one batch at a time is on it. Differs from the official code in one thing: what an
image draws depends on its index alone, not on its batch mates or on which images fell before.

`version="rand"` takes f(x, key), a classifier that draws, and calls it on one image at a time, each
with its own key (under `vmap`): there too no result depends on the batch size.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from l2ljax import gate
from l2ljax.attacks import checks
from l2ljax.attacks.cascade import CLEAN, OnProgress, Run, State, cascade, function_of_x
from l2ljax.attacks.cw import MOST_STEPS
from l2ljax.attacks.entrance import check_dataset, classifier
from l2ljax.attacks.fab import fab_targeted
from l2ljax.attacks.pgd import apgd, apgd_targeted
from l2ljax.attacks.square import square
from l2ljax.errors import InputError
from l2ljax.types import Array, one_key


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
        Run(
            "square",
            partial(square, queries=budget.square_queries),
            cost=budget.square_queries,
            gradient=False,
        )
    ],
}
"""The attacks by their official names: (budget, classes, eot) -> runs, one per target."""


class Result(NamedTuple):
    """What is left: adversarial images, which images stand, accuracy after each attack.

    x_adv holds the image itself where none was found. `version` says what was run; a `quick`
    accuracy is an upper bound. `warnings` are the lines of `checks`; `refused` counts images that
    are misclassified but left the ball or the box or were not finite, `nan_gradient` those that
    stand although their gradient is NaN or infinite (None: no attack followed one).
    """

    x_adv: np.ndarray
    robust: np.ndarray
    accuracy: dict[str, float]
    version: str
    warnings: tuple[str, ...]
    refused: int
    nan_gradient: int | None


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
) -> Result:
    """x_adv, per-image robust flags, and the accuracy after each attack of the version or list.

    `state` is what `on_progress` was last given; with the same arguments the result is that of an
    uninterrupted run.
    """
    gate.word("version", version, VERSIONS)
    rng = one_key(rng)
    if attacks is not None and (isinstance(attacks, str) or not attacks):
        raise InputError(f"attacks={attacks!r} must be a list, such as ['apgd-ce', 'square']")
    names = tuple(VERSIONS[version] if attacks is None else attacks)
    gate.check_eps(eps, norm)
    eot = budget.eot if version == "rand" else 0
    x, y, classes = check_dataset(f, x, y, batch_size=batch_size, key=rng if eot else None)
    f = classifier(f)
    sample = checks.first_batch(x, y, batch_size)
    rows = np.resize(np.arange(sample.n), batch_size)
    checks.check_finite(function_of_x(f, rng, jax.numpy.asarray(rows), eot), sample)
    runs = plan(names, budget, classes, eot=eot)
    warnings = () if eot else checks.warnings_before(f, sample, names, budget.targets, norm)
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
        eot=eot,
    )
    accuracy = after_each(state, runs)
    found = [checks.square_helps(accuracy), *checks.warnings_after(state)]
    found.append(checks.at_chance(state, y, classes))
    warnings += tuple(line for line in found if line is not None)
    return Result(
        x_adv=state.x_adv,
        robust=state.robust,
        accuracy=accuracy,
        version=version if attacks is None else "+".join(names),
        warnings=warnings,
        refused=state.refused,
        nan_gradient=state.nan_gradient,
    )


def plan(names: Sequence[str], budget: Budget, classes: int, *, eot: int = 0) -> list[Run]:
    """The runs of those attacks in that order, one per target where an attack has targets."""
    if not isinstance(budget, Budget):
        raise InputError(f"budget is a {type(budget).__name__}: pass Budget(apgd_steps=100)")
    for name, count in budget._asdict().items():
        gate.check_count(name, count)
    for name in names:
        gate.word("attack", name, PARTS)
        if eot and not name.startswith("apgd"):
            raise InputError(f"{name} cannot attack a classifier f(x, rng): rand has apgd alone")
    return [run for name in names for run in PARTS[name](budget, classes, eot)]


def after_each(state: State, runs: Sequence[Run]) -> dict[str, float]:
    """The accuracy on clean images and after each attack, by its name."""
    return {"clean": state.after(CLEAN)} | {
        run.name: state.after(number) for number, run in enumerate(runs)
    }
