"""What an evaluation must be told before its numbers mean anything: the official suite's flags.

Every check returns one line, or None where there is nothing to say. Most follow the `checks.py` of
the official AutoAttack (github.com/fra31/auto-attack); half precision, the layout of the images and
what the cascade could not decide (`after`) are ours. None of them stops an evaluation.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.tree_util import Partial

from l2ljax.attacks.cascade import CLEAN, State, logits_of, true_float32
from l2ljax.attacks.entrance import classifier, compiled_logits, layout_warning
from l2ljax.ball import TINY, scale
from l2ljax.errors import InputError
from l2ljax.losses import dlr
from l2ljax.types import Array

FORWARDS = 5
TOLERANCE = 1e-4
"""The official check compares five forward passes, rows of unit length, to 1e-4."""

IMAGES = 64
"""So many are enough to see that a classifier is random."""

ENOUGH = 30
"""Of fewer images an accuracy at chance says little."""

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
def _no_gradient(f, x, y):
    def loss(x):
        z = f(x)
        return dlr(z, y).sum(), z.argmax(-1) == y

    u, right = jax.grad(loss, has_aux=True)(x)
    return right & (u == 0).all(tuple(range(1, u.ndim)))


def check_finite(f: Callable[[Array], Array], sample: Sample) -> None:
    """An InputError if f(x) is NaN or infinite for an image of the first batch."""
    x, _, n = sample
    bad = int((~np.isfinite(np.asarray(compiled_logits(classifier(f), x))[:n])).any(-1).sum())
    if bad:
        raise InputError(f"f(x) is NaN or infinite for {bad} of the first {n} images")


HALF = ("bfloat16", "float16")
PRODUCTS = ("dot_general", "conv_general_dilated")


def half_precision(f: Callable[[Array], Array], x: Any) -> str | None:
    """Whether f computes a product in half precision, on images like x (an array or a shape).

    An attack then ends on what rounding shows and float32 does not; its own images stand more often
    than those of the same weights in float32 would.
    """
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    for name in _halves(compiled_logits.trace(classifier(f), like).jaxpr.jaxpr):
        return (
            f"the classifier computes in {name}, which makes attacks weaker than they are: build "
            "it with dtype=float32 to evaluate it, on the same weights"
        )
    return None


def _halves(jaxpr: Any) -> Iterator[str]:
    """The half types in which a program multiplies, programs inside programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            types = {str(v.aval.dtype) for v in equation.invars}
            yield from (name for name in HALF if name in types)
        for inner in jaxprs_in_params(equation.params):
            yield from _halves(inner)


def variation(f: Callable[[Array], Array], x: Array, y: Array) -> tuple[float, list[int]]:
    """The largest difference between the logits of 5 passes, rows of unit length; the right ones.

    Without jit: what a Python function draws would be drawn once, while it is traced.
    """
    seen = [_called(f, x) for _ in range(FORWARDS)]
    unit = [z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), TINY) for z in seen]
    right = sorted({int((z.argmax(-1) == np.asarray(y)).sum()) for z in seen})
    return max(float(np.abs(u - unit[0]).max()) for u in unit), right


def _called(f: Callable[[Array], Array], x: Array) -> np.ndarray:
    """f(x) outside jit, of a copy of x: f may donate its input, and JAX may tell that it cannot."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        return np.asarray(f(jnp.array(x)), np.float64)


def randomised(f: Callable[[Array], Array], sample: Sample) -> str | None:
    """Whether the same images give different logits (a function of x alone does not)."""
    n = min(sample.n, IMAGES)
    largest, right = variation(f, sample.x[:n], sample.y[:n])
    if len(right) > 1 or largest > TOLERANCE:
        return "the classifier is random: its logits change from call to call"
    return None


def classifier_warnings(f: Callable[[Array], Array], sample: Sample, norm: str) -> tuple[str, ...]:
    """What can be seen of a classifier f(x) in two passes over one batch, and in its program.

    A classifier that is no `Partial` of its weights gets a third pass, outside jit.
    """
    x, y, _ = sample
    z = logits_of(f, x, y, norm).astype(np.float64)
    lines = [probabilities(z), batch_dependence(f, sample, z, norm), changed(f, sample, z)]
    lines += [half_precision(f, x), layout_warning(x.shape)]
    return tuple(line for line in lines if line is not None)


APART = 1e-3, 1e-2
"""By what share of the largest logit an image's logits may differ: beside other images, which are
computed by the same program, and outside jit, where rounding differs too."""


def _apart(z: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, relative to the largest logit; NaN is equal to NaN."""
    both = np.isfinite(z) & np.isfinite(other)
    return np.abs(z - other)[both].max(initial=0) / max(1.0, np.abs(z[both]).max(initial=0))


def batch_dependence(
    f: Callable[[Array], Array], sample: Sample, z: np.ndarray, norm: str
) -> str | None:
    """Whether an image's logits z depend on the images beside it."""
    half = len(z) // 2
    x = sample.x.at[half:].set(1 - sample.x[half:])
    if _apart(z[:half], logits_of(f, x, sample.y, norm)[:half]) > APART[0]:
        return (
            "an image's logits depend on the images beside it, as with BatchNorm in training mode: "
            "set the classifier to evaluation mode"
        )
    return None


def changed(f: Callable[[Array], Array], sample: Sample, z: np.ndarray) -> str | None:
    """Whether f, called again, differs from its compiled form z; it holds its weights itself."""
    if isinstance(f, Partial) and jax.tree.leaves(f):
        return None
    with true_float32():
        again = _called(f, sample.x)
    if _apart(z, again) > APART[1]:
        return (
            "the classifier gives other logits when it is called again than when it was compiled: "
            "it draws random numbers, or its weights have changed: give "
            "jax.tree_util.Partial(apply, weights)"
        )
    return None


def at_chance(state: State, y: np.ndarray, classes: int) -> str | None:
    """Whether the clean accuracy, of enough images, is no better than a guess.

    That is any one class, or the most frequent label of a set that is about balanced.
    """
    clean, n = state.after(CLEAN), len(state.fell)
    guess = min(np.unique(y, return_counts=True)[1].max() / n, 2 / classes)
    if n >= ENOUGH and clean <= max(guess, 1 / classes):
        return (
            f"only {100 * clean:.1f} % of the {n} images are classified rightly, no better than a "
            f"guess among {classes} classes: are the labels the classifier's, its weights those "
            "that were trained, and pixels in [0, 1] what it expects?"
        )
    return None


def probabilities(z: np.ndarray) -> str | None:
    """Whether the outputs are probabilities: DLR and the margin need logits."""
    if z.min() >= 0 and z.max() <= 1 and np.abs(z.sum(-1) - 1).max() < SUMS_TO_ONE:
        return "the outputs are probabilities, not logits: the softmax hides gradients"
    return None


def zero_gradient(f: Callable[[Array], Array], sample: Sample) -> str | None:
    """How many images that are classified rightly have a DLR gradient of exactly zero.

    Where the label is third in the order of the logits, DLR is 1 everywhere and has no gradient.
    """
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


def warnings_after(state: State) -> tuple[str, ...]:
    """What a cascade could not decide, or decided against a claim."""
    lines = []
    n, standing = len(state.fell), int(state.robust.sum())
    if state.nan_logits:
        lines.append(
            f"the logits are NaN for {state.nan_logits} of {n} images without any attack: they "
            "count as misclassified"
        )
    if state.refused:
        lines.append(
            f"{state.refused} claims of adversarial images were refused: they left the ball or the "
            "box, or were not finite"
        )
    if state.nan_gradient:
        lines.append(
            f"{state.nan_gradient} of the {standing} images that stand have a gradient that is NaN "
            "or infinite: no attack by gradient could move them, so they are not shown to be robust"
        )
    return tuple(lines)


def warn(lines: Sequence[str]) -> None:
    """One RuntimeWarning of all lines, from a function whose result has no place for them."""
    if lines:
        warnings.warn("; ".join(lines), RuntimeWarning, stacklevel=3)


def warnings_before(
    f: Callable[[Array], Array],
    sample: Sample,
    names: Collection[str],
    targets: int,
    norm: str = "linf",
) -> tuple[str, ...]:
    """Every check that can be made on one batch before the attacks."""
    random = randomised(f, sample)
    found: list[str | None] = [random] if random else [*classifier_warnings(f, sample, norm)]
    if {"apgd-t", "fab-t"} & set(names):
        found.append(
            few_classes(compiled_logits.eval_shape(classifier(f), sample.x).shape[-1], targets)
        )
    if {"apgd-dlr", "apgd-t"} & set(names):
        found.append(zero_gradient(f, sample))
    return tuple(line for line in found if line is not None)
