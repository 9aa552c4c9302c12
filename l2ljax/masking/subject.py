"""What is examined, and what a check says of it: a number, its limit, a verdict and one line.

Every number is so turned that larger is worse. Above `suspect` the model deserves a closer look;
above `masked` the check alone decides that a robust accuracy measured by gradient attacks is not to
be believed. `benchmarks/calibrate_masking.py` made the limits on digits; `results/masking.md` has
the rule, the nets and both error rates.

A subject is a classifier and the images it is examined on, with the attacks that several checks
share. Its loss surface is a plane through every image: along the gradient's sign and along random
signs. An honest net's loss rises smoothly along the first axis and hardly changes along the second;
a masked one's is flat, or rough, or falls again where the step of its training ended.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from l2ljax import gate
from l2ljax.attacks import checks
from l2ljax.attacks.autoattack import OFFICIAL, Budget
from l2ljax.attacks.cascade import CLEAN, STANDS, Run, batches, cascade, start
from l2ljax.attacks.entrance import check_dataset, classes_of, classifier, compiled_logits
from l2ljax.attacks.specs import parse
from l2ljax.ball import box, per_image, scale
from l2ljax.losses import cross_entropy, margin
from l2ljax.types import Array

Verdict = Literal["pass", "suspect", "masked"]

VERDICTS: tuple[Verdict, ...] = ("pass", "suspect", "masked")
"""From the best to the worst."""


class Limit(NamedTuple):
    """The number is bad above `suspect` and decisive above `masked` (infinity: it never decides).

    `least` is the fewest images that the number has to stand for.
    """

    suspect: float
    masked: float
    unit: str
    least: int = 0


NEVER = float("inf")
"""For a check that is no proof by itself."""

LIMITS: dict[str, Limit] = {
    # Facts: what the official AutoAttack warns of, and what the others are with it.
    "randomised": Limit(1e-4, 1e-4, ""),
    "probabilities": Limit(0, 50, "% of images"),
    "few_classes": Limit(0, NEVER, "classes"),
    "batch_dependence": Limit(1e-4, 1e-4, ""),
    "zero_gradient": Limit(0, 5, "% of images"),
    "shattered": Limit(0.2, 0.5, ""),
    # Calibrated.
    "logit_scale": Limit(5, 5, "% of images"),
    "overfitted": Limit(1, 2, "% of images", 3),
    "one_step": Limit(0, 2, "points", 3),
    "more_steps": Limit(5, 5, "points"),
    "other_loss": Limit(8, 11, "points"),
    "large_radius": Limit(2, 2, "% of images"),
    "black_box": Limit(0.2, 3, "points", 3),
    "transfer": Limit(0, 2, "points", 3),
    # As black_box and transfer, whose questions they ask of a learned attacker.
    "own_attacker": Limit(0, 2, "points", 3),
    "best_response": Limit(0.2, 3, "points", 3),
}
"""The limits of every check."""


class Check(NamedTuple):
    """One check: its number in `unit`, the limit that its verdict turns on, and what was seen.

    `images` is how many the number stands for, where a limit asks for some.
    """

    name: str
    number: float
    unit: str
    threshold: float
    verdict: Verdict
    why: str
    images: int | None = None


def make_check(
    name: str, number: float, why: str, images: int | None = None, limit: Limit | None = None
) -> Check:
    """The check of that number, held against `limit`, or against its own in LIMITS.

    `images` is how many the number stands for, where that counts. The threshold is the one that was
    crossed, else the first. A number that is NaN is suspect.
    """
    limit = limit or LIMITS[name]
    verdict: Verdict = "suspect" if math.isnan(number) else "pass"
    if images is None or images >= limit.least:
        if number > limit.masked:
            verdict = "masked"
        elif number > limit.suspect:
            verdict = "suspect"
    threshold = limit.masked if verdict == "masked" else limit.suspect
    return Check(name, float(number), limit.unit, threshold, verdict, why, images)


def worst(checks: Iterable[Check]) -> Verdict:
    """The worst verdict of all: masked if any check that may decide alone says so."""
    return VERDICTS[max((VERDICTS.index(check.verdict) for check in checks), default=0)]


PlayAttack = Callable[..., Array]
"""An attack as a cascade plays it: (rng, f, x, y, *, eps, norm) -> x_adv."""


class Subject(NamedTuple):
    """f: x -> logits in eval mode; x uint8 or float in [0, 1]; eps the l_inf radius.

    `stood(name)` says which images stand after the attack of that name, `stood(name, before)`
    after it and all those before it; each is played once, however many ask.
    """

    rng: Array
    f: Partial
    x: np.ndarray
    y: np.ndarray
    eps: float
    batch_size: int
    stood: Callable[..., np.ndarray]

    def classes(self) -> int:
        """How many classes f tells apart."""
        n = min(self.batch_size, len(self.x))
        return classes_of(self.f, jax.ShapeDtypeStruct((n, *self.x.shape[1:]), np.float32))

    def accuracy(self, attack: str) -> float:
        """Robust accuracy under the attack of that name, in per cent."""
        return 100 * float(self.stood(attack).mean())

    def standing(self, attacks: Sequence[str]) -> np.ndarray:
        """Which images stand after every one of the attacks."""
        return np.logical_and.reduce([self.stood(name) for name in attacks])

    def after(self, play: PlayAttack, rows: np.ndarray) -> np.ndarray:
        """Which of the images `rows`, a mask of right ones, stand after `play`."""
        return _play(self, [Run("play", play)], rows)

    def each(
        self, measure: Callable[..., Array], *args: np.ndarray | float, rng: Array | None = None
    ) -> np.ndarray:
        """measure(f, x, y, *args), a value or a row for every image, batch by batch.

        With rng it is measure(f, x, y, keys, *args): one key per image, by its index.
        """
        parts, size = [], min(self.batch_size, len(self.x))
        for block, n in batches(np.arange(len(self.x)), size):
            images, labels = scale(jnp.asarray(self.x[block])), jnp.asarray(self.y[block])
            keys = () if rng is None else (per_image(rng, int(block[0]) + jnp.arange(size)),)
            parts.append(np.asarray(measure(self.f, images, labels, *keys, *args))[:n])
        return np.concatenate(parts)


def _play(s: Subject, runs: Sequence[Run], rows: np.ndarray) -> np.ndarray:
    """Which of `rows` stand after the runs, in batches of the shape that all images have."""
    state = start(s.x, keep=False)
    state = state._replace(run=0, fell=np.where(rows, STANDS, CLEAN).astype(state.fell.dtype))
    settings = {"eps": s.eps, "norm": "linf", "batch_size": s.batch_size, "state": state}
    state = cascade(s.rng, s.f, s.x, s.y, runs, **settings)
    # Gradients that are NaN have a check of their own.
    checks.warn(checks.warnings_after(state._replace(nan_gradient=None)))
    return state.robust


def make_subject(
    rng: Array,
    f: Callable[[Array], Array],
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    batch_size: int,
    budget: Budget = OFFICIAL,
    known: Mapping[str, np.ndarray] | None = None,
) -> Subject:
    """The subject of every check.

    `budget` is how long the parts of AutoAttack try; `known` has what stood after attacks that
    were made before, by name.
    """
    gate.check_eps(eps)
    x, y, _ = check_dataset(f, x, y, batch_size=batch_size)
    given = {name: np.asarray(flags, bool) for name, flags in (known or {}).items()}

    @cache
    def stood(name: str, before: tuple[str, ...] = ("clean",)) -> np.ndarray:
        if name == "clean":
            return s.each(_right)
        if name in given and before == ("clean",):
            return given[name]
        runs = parse(name, budget=budget).runs(s.classes())
        return _play(s, runs, s.standing(before))

    s = Subject(rng, classifier(f), x, y, eps, batch_size, stood)
    return s


@jax.jit
def _right(f, x, y):
    logits = f(x)
    return (logits.argmax(-1) == y) & ~jnp.isnan(logits).any(-1)


@jax.jit
def outputs(f: Callable[[Array], Array], x: Array, y: Array | None = None) -> Array:
    """f(x), as `Subject.each` asks for it."""
    return compiled_logits(f, x)


class Surface(NamedTuple):
    """loss and margin [N, P, P] at x + a g + b r: a along the first axis, b along the second.

    `ticks` [P] are a and b in units of eps; g and r are of length eps. margin > 0: misclassified.
    """

    ticks: np.ndarray
    loss: np.ndarray
    margin: np.ndarray


@jax.jit
def _plane(f, x, y, keys, eps, ticks):
    def signs(key):
        return jax.random.rademacher(key, x.shape[1:], x.dtype)

    g = jnp.sign(jax.grad(lambda x: cross_entropy(f(x), y).sum())(x))
    r = jax.vmap(signs)(keys)
    a, b = (side.ravel() for side in jnp.meshgrid(ticks, ticks, indexing="ij"))

    def at(point):
        a, b = point
        logits = f(x + box(x, eps * (a * g + b * r)))
        return cross_entropy(logits, y), margin(logits, y)

    return jnp.stack(jax.lax.map(at, (a, b)), -1).transpose(1, 0, 2)


def loss_surface(s: Subject, *, reach: float, points: int) -> Surface:
    """Values at points x points places, from -reach eps to reach eps both ways, cut to the box."""
    gate.check_positive("reach", reach)
    gate.check_count("points", points)
    ticks = np.linspace(-reach, reach, points, dtype=np.float32)
    found = s.each(_plane, s.eps, ticks, rng=jax.random.fold_in(s.rng, 3))
    grid = found.reshape(len(s.x), points, points, 2)
    return Surface(ticks, grid[..., 0], grid[..., 1])
