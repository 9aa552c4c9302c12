"""What an evaluation must be told before its numbers mean anything: the official suite's flags.

Every check returns one line, or None where there is nothing to say. They follow the `checks.py` of
the official AutoAttack (github.com/fra31/auto-attack); none of them stops an evaluation.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.attacks.loop import classifier
from l2ljax.ball import TINY, scale
from l2ljax.losses import dlr
from l2ljax.types import Array

FORWARDS = 5
TOLERANCE = 1e-4
"""The official check compares five forward passes, rows of unit length, to 1e-4."""

IMAGES = 64
"""So many are enough to see that a classifier is random."""

SUMS_TO_ONE = 1e-5
SQUARE_HELPS = 0.002


class Sample(NamedTuple):
    """The first batch of a set, filled up to the shape of all batches; n of its rows are real."""

    x: Array
    y: Array
    n: int


def first_batch(x: np.ndarray, y: np.ndarray, batch_size: int) -> Sample:
    """What the checks look at."""
    rows = np.resize(np.arange(min(batch_size, len(x))), batch_size)
    return Sample(scale(jnp.asarray(x[rows])), jnp.asarray(y[rows]), min(batch_size, len(x)))


@jax.jit
def _logits(f, x):
    return f(x)


@jax.jit
def _no_gradient(f, x, y):
    u = jax.grad(lambda x: dlr(f(x), y).sum())(x)
    return (u == 0).all(tuple(range(1, u.ndim)))


def classes_of(f: Callable[[Array], Array], sample: Sample, y: np.ndarray) -> int:
    """The number of classes, or a ValueError if f(x) is no [B, K] array of finite logits."""
    f, (x, _, n) = classifier(f), sample
    out = _logits.eval_shape(f, x)
    if not hasattr(out, "shape") or len(out.shape) != 2 or len(x) != out.shape[0]:
        raise ValueError(f"f(x) must be logits [{len(x)}, K] for {len(x)} images; it is {out}")
    bad = int((~np.isfinite(np.asarray(_logits(f, x))[:n])).any(-1).sum())
    if bad:
        raise ValueError(f"f(x) is NaN or infinite for {bad} of the first {n} images")
    if out.shape[1] < 2 or not 0 <= int(y.min()) <= int(y.max()) < out.shape[1]:
        raise ValueError(f"labels lie in {y.min()}..{y.max()}, and f has {out.shape[1]} classes")
    return out.shape[1]


def variation(f: Callable[[Array], Array], x: Array, y: Array) -> tuple[float, list[int]]:
    """The largest difference between the logits of 5 passes, rows of unit length; the right ones.

    Without jit: what a Python function draws would be drawn once, while it is traced.
    """
    seen = [np.asarray(f(x), np.float64) for _ in range(FORWARDS)]
    unit = [z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), TINY) for z in seen]
    right = sorted({int((z.argmax(-1) == np.asarray(y)).sum()) for z in seen})
    return max(float(np.abs(u - unit[0]).max()) for u in unit), right


def randomised(f: Callable[[Array], Array], sample: Sample) -> str | None:
    """Whether the same images give different logits (a function of x alone does not)."""
    n = min(sample.n, IMAGES)
    largest, right = variation(f, sample.x[:n], sample.y[:n])
    if len(right) > 1 or largest > TOLERANCE:
        return "the classifier is random: its logits change from call to call"
    return None


def probabilities(f: Callable[[Array], Array], sample: Sample) -> str | None:
    """Whether the outputs are probabilities: DLR and the margin need logits."""
    z = np.asarray(_logits(classifier(f), sample.x), np.float64)
    if z.min() >= 0 and z.max() <= 1 and np.abs(z.sum(-1) - 1).max() < SUMS_TO_ONE:
        return "the outputs are probabilities, not logits: the softmax hides gradients"
    return None


def zero_gradient(f: Callable[[Array], Array], sample: Sample) -> str | None:
    """How many images have a DLR gradient of exactly zero."""
    x, y, n = sample
    zeros = int(np.asarray(_no_gradient(classifier(f), x, y))[:n].sum())
    if zeros:
        return f"{zeros} of {n} images have a gradient of exactly zero: it may be masked"
    return None


def few_classes(classes: int, targets: int) -> str | None:
    """Whether the targeted attacks have fewer targets, or another loss, than the official ones."""
    if classes < 3:
        return f"{classes} classes: DLR is replaced by the margin, and there is one target"
    if classes == 3:
        return "3 classes: the targeted DLR loss is divided by z_1 - z_3, and there are 2 targets"
    if targets > classes - 1:
        return f"{classes} classes: {classes - 1} targets instead of {targets}"
    return None


def square_helps(accuracy: Mapping[str, float]) -> str | None:
    """Whether Square, which sees no gradient, still lowers what an attack before it left.

    `accuracy`: of the clean images, and after each attack in its order.
    """
    order = list(accuracy)
    if "square" not in order[2:]:
        return None
    before = accuracy[order[order.index("square") - 1]]
    fell = before - accuracy["square"]
    if fell > SQUARE_HELPS:
        return (
            f"Square lowered the accuracy by {100 * fell:.1f} points after the gradient attacks: "
            "gradients may be masked"
        )
    return None


def before(
    f: Callable[[Array], Array], sample: Sample, names: Collection[str], targets: int
) -> tuple[str, ...]:
    """Every check that can be made on one batch before the attacks."""
    found = [randomised(f, sample), probabilities(f, sample)]
    if {"apgd-t", "fab-t"} & set(names):
        found.append(few_classes(_logits.eval_shape(classifier(f), sample.x).shape[-1], targets))
    if {"apgd-dlr", "apgd-t"} & set(names):
        found.append(zero_gradient(f, sample))
    return tuple(line for line in found if line is not None)
