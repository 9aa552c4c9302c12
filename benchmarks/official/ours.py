"""Our attacks in the form of `official.attacks`: NumPy in, NumPy out, chance given from outside.

    x_adv = apgd_t(f, x, y, starts, eps=8/255, norm="linf", steps=100)

Images that have fallen drop out before the next target, as there. Nothing here is random.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.attacks.entrance import classifier
from l2ljax.attacks.fab import fab_targeted
from l2ljax.attacks.pgd import apgd, apgd_targeted
from l2ljax.attacks.square import Draws
from l2ljax.attacks.square import square as run_square
from l2ljax.types import Array

SMALLEST = 8
"""The smallest batch that is compiled."""

KEY = partial(jax.random.key, 0)
"""Every attack takes a key; none is used here."""

Classifier = Callable[[Array], Array]


def room(n: int) -> int:
    """The batch size n images are filled up to, a power of two: few shapes are compiled."""
    return max(SMALLEST, 1 << (n - 1).bit_length())


def _jax(x: np.ndarray, y: np.ndarray) -> tuple[Array, Array]:
    return jnp.asarray(x), jnp.asarray(y)


@jax.jit
def _logits(f, x):
    return f(x)


def right(f: Classifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which images f classifies rightly."""
    rows = np.resize(np.arange(len(x)), room(len(x)))
    return np.asarray(_logits(classifier(f), x[rows]))[: len(x)].argmax(-1) == y


def starts(seed: int, count: int, x: np.ndarray, eps: float, norm: str) -> np.ndarray:
    """Perturbations on the boundary of the ball, cut to the box, [count, N, H, W, C]."""
    rng = np.random.default_rng(seed)
    shape = count, *x.shape
    t = rng.uniform(-1, 1, shape) if norm == "linf" else rng.normal(size=shape)
    axes = (2, 3, 4)
    largest = np.abs(t).max(axes, keepdims=True)
    t /= largest if norm == "linf" else np.sqrt((t**2).sum(axes, keepdims=True))
    return (np.clip(x + eps * t, 0, 1) - x).astype(np.float32)


def _in_turn(play: Callable[..., Array], f: Classifier, x: np.ndarray, y: np.ndarray, targets: int):
    x_adv, standing = x.copy(), np.arange(len(x))
    for target in range(targets):
        if not len(standing):
            break
        rows = np.resize(standing, room(len(standing)))
        found = np.asarray(play(target, rows))[: len(standing)]
        fell = ~right(f, found, y[standing])
        x_adv[standing[fell]] = found[fell]
        standing = standing[~fell]
    return x_adv


def apgd_ce(
    f: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    start: np.ndarray,
    *,
    eps: float,
    norm: str,
    steps: int,
) -> np.ndarray:
    """APGD-CE from x + start."""
    settings = {"eps": eps, "norm": norm, "steps": steps, "loss": "ce"}
    return np.asarray(apgd(KEY(), f, *_jax(x, y), start=jnp.asarray(start), **settings))


def apgd_t(
    f: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    starts: np.ndarray,
    *,
    eps: float,
    norm: str,
    steps: int,
) -> np.ndarray:
    """APGD-T from x + starts[k] towards the class of rank 2 + k."""
    settings = {"eps": eps, "norm": norm, "steps": steps}

    def play(k, rows):
        start = jnp.asarray(starts[k][rows])
        return apgd_targeted(KEY(), f, *_jax(x[rows], y[rows]), rank=2 + k, start=start, **settings)

    return _in_turn(play, f, x, y, len(starts))


def fab_t(
    f: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    norm: str,
    steps: int,
    targets: int,
) -> np.ndarray:
    """FAB-T towards every target."""
    settings = {"eps": eps, "norm": norm, "steps": steps}

    def play(k, rows):
        return fab_targeted(KEY(), f, *_jax(x[rows], y[rows]), rank=2 + k, **settings)

    return _in_turn(play, f, x, y, targets)


def square(
    f: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    start: np.ndarray,
    draws: dict[str, np.ndarray],
    *,
    eps: float,
    norm: str,
    queries: int,
) -> np.ndarray:
    """Square from x + start with the draws of another run."""
    settings = {"eps": eps, "norm": norm, "queries": queries}
    chance = {
        "start": jnp.asarray(start),
        "draws": Draws(**{name: jnp.asarray(drawn) for name, drawn in draws.items()}),
    }
    return np.asarray(run_square(KEY(), f, *_jax(x, y), **chance, **settings))
