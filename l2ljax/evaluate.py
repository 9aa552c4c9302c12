"""Clean and robust accuracy over a set, always with running statistics, the worst case per image.

Batches have one fixed shape, whatever the size of the set, so nothing recompiles for the last one.
An image that has fallen leaves, and the survivors are packed into full batches again. What an
image draws depends on its index alone, so neither the packing nor the batch size changes a result.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from l2ljax.attacks.pgd import pgd
from l2ljax.attacks.specs import Attack, Run
from l2ljax.data.batches import scale
from l2ljax.types import Apply, Array, Tree

OnRun = Callable[[str, int, int, int], None]
"""(attack, runs done, runs in all, images that still stand), called after every run."""


class Result(NamedTuple):
    """One attack over one set: which images stood, and how long it took."""

    attack: str
    eps: float
    robust: np.ndarray
    seconds: float

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


@jax.jit
def _correct(f, x, y):
    logits = f(x)
    return (logits.argmax(-1) == y) & ~jnp.isnan(logits).any(-1)


@jax.jit
def _keys(rng, rows):
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, rows)


def batches(rows: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows in blocks of batch_size, the last one filled up; and how many of each are real."""
    for start in range(0, len(rows), batch_size):
        block = rows[start : start + batch_size]
        yield np.resize(block, batch_size), len(block)


def _standing(f, x, y, rows, batch_size, perturb) -> np.ndarray:
    """Of the images `rows`, those that f still classifies after `perturb`."""
    kept = [rows[:0]]
    for block, n in batches(rows, batch_size):
        images, labels = scale(jnp.asarray(x[block])), jnp.asarray(y[block])
        images = perturb(block, images, labels)
        kept.append(block[:n][np.asarray(_correct(f, images, labels))[:n]])
    return np.concatenate(kept)


def robust(
    rng: Array,
    f: Callable[[Array], Array],
    x: np.ndarray,
    y: np.ndarray,
    attack: Attack,
    *,
    eps: float,
    batch_size: int,
    progress: OnRun | None = None,
) -> np.ndarray:
    """For every image, whether it is classified rightly before and after every run of the attack.

    A restart has the same draws in every run, so that a union is never above any of its parts.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be positive")
    f = f if isinstance(f, Partial) else Partial(f)
    alive = _standing(f, x, y, np.arange(len(x)), batch_size, lambda rows, images, labels: images)
    played = [(run, restart) for run in attack.runs for restart in range(run.restarts)]
    for done, (run, restart) in enumerate(played, start=1):
        key = jax.random.fold_in(rng, restart)
        alive = _standing(f, x, y, alive, batch_size, _perturbation(key, f, run, eps))
        if progress is not None:
            progress(attack.name, done, len(played), len(alive))
    standing = np.zeros(len(x), bool)
    standing[alive] = True
    return standing


def _perturbation(key: Array, f: Partial, run: Run, eps: float) -> Callable:
    eps = run.eps or eps

    def perturb(rows, images, labels):
        return pgd(
            _keys(key, jnp.asarray(rows)),
            f,
            images,
            labels,
            eps=eps,
            steps=run.steps,
            step_size=run.step_size(eps),
            start=run.start,
            loss=run.loss,
        )

    return perturb


def evaluate(
    rng: Array,
    f: Callable[[Array], Array],
    x: np.ndarray,
    y: np.ndarray,
    attacks: Iterable[Attack],
    *,
    eps: float,
    batch_size: int,
    progress: OnRun | None = None,
) -> list[Result]:
    """Every attack over the whole set, each from the start."""
    results = []
    for attack in attacks:
        began = time.perf_counter()
        stood = robust(rng, f, x, y, attack, eps=eps, batch_size=batch_size, progress=progress)
        radius = attack.radius(eps)
        results.append(Result(attack.name, radius, stood, time.perf_counter() - began))
    return results
