"""Clean and robust accuracy over a set, always with running statistics, the worst case per image.

`attacks.cascade` does the work: batches of one fixed shape, survivors packed anew after every run,
search and verdict in true float32. Here are the names, the clock, the intervals, and the lines that
say where a number is not what it seems.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jax.tree_util import Partial

from l2ljax.attacks import checks
from l2ljax.attacks.cascade import CLEAN, Run, State, cascade
from l2ljax.attacks.entrance import dataset
from l2ljax.attacks.specs import Attack, check_attack
from l2ljax.types import Apply, Array, Tree

OnBatch = Callable[[Attack, list[Run], State], None]
"""(attack, its runs, how far it is), called after every batch."""


class Step(NamedTuple):
    """What stood after one attack of a cascade, and how long it took."""

    attack: str
    accuracy: float
    seconds: float


class Result(NamedTuple):
    """One attack over one set: which images stood, and how long it took.

    `after` has a line for the clean images and for each attack of a cascade; `state` is where the
    cascade ended, with x_adv if that was asked for; `bounds` names the attack whose accuracy this
    one's is an upper bound of. `warnings` says in lines what makes the accuracy doubtful: claims
    that were refused, logits or gradients that are NaN, a classifier in half precision. `seconds`
    leaves out the look at the gradient of what stands at the end.
    """

    attack: str
    eps: float
    robust: np.ndarray
    seconds: float
    after: tuple[Step, ...] = ()
    state: State | None = None
    bounds: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        """The share of images that stood."""
        return float(self.robust.mean())


def freeze(f: Apply) -> Callable[[Tree, Tree], Partial]:
    """(theta, stats) -> the classifier x -> logits in eval mode; compiled once for all weights."""

    def logits(theta: Tree, stats: Tree, x: Array) -> Array:
        return f(theta, stats, x, "eval")[0]

    return lambda theta, stats: Partial(logits, theta, stats)


def wilson(accuracy: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % Wilson interval of a share measured on n images."""
    centre = (accuracy + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(accuracy * (1 - accuracy) / n + z * z / (4 * n * n))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def robust(
    rng: Array,
    f: Callable[[Array], Array],
    x: np.ndarray,
    y: np.ndarray,
    attack: Attack,
    *,
    eps: float,
    batch_size: int,
    norm: str = "linf",
    share: Callable[[Tree], Tree] = lambda batch: batch,
) -> np.ndarray:
    """For every image, whether it is classified rightly before and after every run of the attack.

    `share` cuts a batch over devices. A restart has the same draws in every run, so that a union is
    never above any of its parts. What `evaluate` puts into `Result.warnings` is a RuntimeWarning.
    """
    check_attack(attack)
    attack.check_norm(norm)
    x, y, classes = dataset(f, x, y, batch_size=batch_size)
    sizes = {"batch_size": batch_size, "share": share}
    state = cascade(rng, f, x, y, attack.runs(classes), eps=eps, norm=norm, **sizes)
    of_classifier = checks.of_classifier(f, checks.first_batch(x, y, batch_size), norm)
    checks.tell([*of_classifier, *checks.after(state)])
    return state.robust


def evaluate(
    rng: Array,
    f: Callable[[Array], Array],
    x: np.ndarray,
    y: np.ndarray,
    attacks: Iterable[Attack],
    *,
    eps: float,
    batch_size: int,
    norm: str = "linf",
    keep: bool = False,
    begun: dict[str, tuple[State, dict[int, float]]] | None = None,
    on_batch: OnBatch | None = None,
    share: Callable[[Tree], Tree] = lambda batch: batch,
) -> list[Result]:
    """Every attack over the whole set, each from the start; `share` cuts a batch over devices.

    `begun` holds, by the attack's name, the state to go on from and the seconds each run has had;
    it is kept up to date, so that the caller can save it from `on_batch`.
    """
    begun = {} if begun is None else begun
    listed: list[Any] = [attacks] if isinstance(attacks, (str, Attack)) else list(attacks)
    for attack in listed:
        check_attack(attack)
    x, y, classes = dataset(f, x, y, batch_size=batch_size)
    of_classifier = checks.of_classifier(f, checks.first_batch(x, y, batch_size), norm)
    results = []
    for attack in listed:
        attack.check_norm(norm)
        runs = attack.runs(classes)
        state, seconds = begun.get(attack.name, (None, {}))
        clock = _Clock(seconds)

        def on_progress(state, attack=attack, runs=runs, clock=clock):
            clock.lap(state.run)
            begun[attack.name] = (state, clock.seconds)
            if on_batch is not None:
                on_batch(attack, runs, state)

        state = cascade(
            rng,
            f,
            x,
            y,
            runs,
            eps=eps,
            norm=norm,
            batch_size=batch_size,
            keep=keep,
            state=state,
            on_progress=on_progress,
            share=share,
        )
        begun[attack.name] = (state, clock.seconds)
        results.append(
            Result(
                attack.name,
                attack.radius(eps),
                state.robust,
                sum(clock.seconds.values()),
                _after(state, runs, clock.seconds),
                state,
                attack.bounds,
                (*of_classifier, *checks.after(state), *_at_chance(state, y, classes)),
            )
        )
    return results


def _at_chance(state: State, y: np.ndarray, classes: int) -> list[str]:
    line = checks.at_chance(state, y, classes)
    return [] if line is None else [line]


class _Clock:
    """Seconds of wall time by run."""

    def __init__(self, seconds: dict[int, float]):
        self.seconds = dict(seconds)
        self._last = time.perf_counter()

    def lap(self, run: int) -> None:
        now = time.perf_counter()
        self.seconds[run] = self.seconds.get(run, 0.0) + now - self._last
        self._last = now


def _after(state: State, runs: list[Run], seconds: dict[int, float]) -> tuple[Step, ...]:
    lines = {"clean": Step("clean", state.after(CLEAN), seconds.get(CLEAN, 0.0))}
    for number, run in enumerate(runs):
        spent = seconds.get(number, 0.0) + (lines[run.name].seconds if run.name in lines else 0.0)
        lines[run.name] = Step(run.name, state.after(number), spent)
    return tuple(lines.values())
