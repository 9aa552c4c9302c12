"""A classifier and the images it is examined on, with the attacks that several checks share."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from l2ljax import gate
from l2ljax.attacks import checks
from l2ljax.attacks.autoattack import OFFICIAL, Budget
from l2ljax.attacks.cascade import CLEAN, STANDS, Run, batches, cascade, start
from l2ljax.attacks.entrance import check_dataset, classes_of, compiled_logits
from l2ljax.attacks.loop import classifier
from l2ljax.attacks.specs import parse
from l2ljax.ball import per_image, scale
from l2ljax.types import Array

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
