"""What an attack and an evaluation begin with: every check of the gate, and of the classifier.

    f, x, y = inputs(f, x, y, eps=eps, norm=norm)               # one batch, for an attack
    x, y, classes = dataset(f, x, y, batch_size=batch_size)     # a whole set, for a cascade

The classifier is looked at through a jit that remembers what it has seen, so that another set of
weights costs no trace.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax.errors import ScopeParamShapeError
from jax.tree_util import Partial

from l2ljax import gate
from l2ljax.attacks.loop import classifier
from l2ljax.errors import InputError
from l2ljax.types import Array


@jax.jit
def ask(f: Callable[..., Array], x: Array, *key: Array) -> Array:
    """The logits of a classifier, compiled once for all weights."""
    return f(x, *key)


def classes_of(f: Callable[..., Array], x: Any, *key: Array) -> int:
    """The number of classes f tells apart on images like x, an array or a shape; f is not run.

    It is traced once for each shape of images, however many sets of weights there are.
    """
    if not callable(f):
        raise InputError(f"f is a {type(f).__name__}: give a function from images to logits")
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    try:
        out = ask.eval_shape(classifier(f), like, *key)
    except (TypeError, ValueError, ScopeParamShapeError) as error:
        told = isinstance(error, InputError) and not looks_nchw(like.shape)
        if told or isinstance(error, jax.errors.JAXTypeError):
            raise
        raise InputError(_fails(like, str(error))) from error
    return gate.check_logits(out, x.shape[0])


def _fails(like: jax.ShapeDtypeStruct, error: str) -> str:
    why = error.strip().splitlines()[0][:200] if error.strip() else "no reason given"
    hint = "are they NHWC, and of the size that it was made for?"
    if looks_nchw(like.shape):
        hint = "they look like NCHW: pass NHWC, x.transpose(0, 2, 3, 1)"
    return f"the classifier fails on images {list(like.shape)}, {like.dtype}: {hint} It says: {why}"


def looks_nchw(shape: tuple[int, ...]) -> bool:
    """Whether 1 or 3 channels stand where the height belongs, and none where they belong."""
    return shape[1] in (1, 3) and shape[3] not in (1, 3)


def inputs(
    f: Callable[..., Array],
    x: Any,
    y: Any,
    *,
    eps: Any,
    norm: str = "linf",
    unbounded: bool = False,
    key: Array | None = None,
) -> tuple[Partial, Array, Array]:
    """What an attack begins with: f as an argument of a jit, x as floats in [0, 1], and y.

    A classifier f(x, key) needs a key to be looked at; it is called on one image at a time.
    """
    gate.check_eps(eps, norm, unbounded=unbounded)
    x = gate.images(x)
    classes = None
    if not gate.is_checked():
        classes = classes_of(f, x) if key is None else classes_of(f, x[:1], key)
    return classifier(f), x, gate.labels(y, len(x), classes)


def dataset(
    f: Callable[..., Array], x: Any, y: Any, *, batch_size: int, key: Array | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """A whole set, which stays in memory: x as it is given, y, and the number of classes.

    f is looked at on the shape it will be played on: that of a batch.
    """
    gate.check_count("batch_size", batch_size)
    gate.check_images(x)
    n = batch_size if key is None else 1
    like = jax.ShapeDtypeStruct((n, *x.shape[1:]), np.float32)
    classes = classes_of(f, like, *(() if key is None else (key,)))
    gate.labels(y, len(x), classes)
    return np.asarray(x), np.asarray(y), classes
