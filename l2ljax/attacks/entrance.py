"""What every attack needs: its arguments checked, its loop, and classifiers that draw.

    f, x, y = check_inputs(f, x, y, eps=eps, norm=norm)               # one batch, for an attack
    x, y, classes = check_dataset(f, x, y, batch_size=batch_size)     # a whole set, for a cascade

The classifier is looked at through a jit that remembers what it has seen, so that another set of
weights costs no trace.

The loop is Python over one compiled step on the CPU backend and one program elsewhere: a
convolution inside `fori_loop` is many times slower on CPU (github.com/jax-ml/jax/issues/12868).
Inside a caller's own jit or vmap nobody can look whether a batch is finished, so an attack that may
end early is one program there on every backend. `step` is a jit at module level and everything it
needs is an argument, the classifier too (as a `jax.tree_util.Partial`), so another set of weights
costs no new compilation.

A classifier f(x, key) that draws is called on one image at a time (under `vmap`, so the work is
that of a batch) with a key that the image brings along. What an image draws then depends on its own
key alone, in whatever batch it is. Measured against one key for a whole batch (64 digits, Auto-PGD,
10 draws a step, two cores): 23 against 22 ms with an mlp, 359 against 390 with wrn-10-1, so it
costs nothing that can be seen.
"""

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax.core import Tracer
from jax.tree_util import Partial

from l2ljax import gate
from l2ljax.data import Images
from l2ljax.devices import is_cpu, repeat
from l2ljax.errors import InputError
from l2ljax.gate import check_count
from l2ljax.types import Array, Tree


@jax.jit
def compiled_logits(f: Callable[..., Array], x: Array, *key: Array) -> Array:
    """The logits of a classifier, compiled once for all weights."""
    return f(x, *key)


def classes_of(f: Callable[..., Array], x: Any, *key: Array) -> int:
    """The number of classes f tells apart on images like x, an array or a shape; f is not run.

    It is traced once for each shape of images, however many sets of weights there are.
    """
    _check_callable(f, (x, *key))
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    try:
        out = compiled_logits.eval_shape(classifier(f), like, *key)
    except InputError as error:
        if gate.looks_nchw(like.shape):
            raise InputError(_fails(like, error)) from error
        raise
    except jax.errors.JAXTypeError as error:
        raise InputError(
            "the classifier cannot be differentiated by JAX: write it in jax.numpy, without "
            "NumPy, float() or an if on values (jnp.where or lax.cond instead). It says: "
            f"{_first_line(error)}"
        ) from error
    except (TypeError, ValueError, FlaxError) as error:
        raise InputError(_fails(like, error)) from error
    return gate.check_logits(out, x.shape[0])


HOW = "lambda x: module.apply(variables, x, train=False)"


def _check_callable(f: Any, given: tuple) -> None:
    """An InputError unless f can be called with the images alone (and a key, if one is given)."""
    if not callable(f) or isinstance(f, type):
        what = f"the class {f.__name__}" if isinstance(f, type) else f"a {type(f).__name__}"
        raise InputError(f"f is {what}: give a function from images to logits, such as {HOW}")
    name = type(f).__name__
    if _is_nnx(f):
        raise InputError(
            f"f is the flax.nnx model {name}, whose weights a jit would keep as they are now: "
            "write f, theta, stats = functional_nnx(model) and give freeze(f)(theta, stats)"
        )
    if hasattr(f, "init") and hasattr(f, "apply") and getattr(f, "scope", None) is None:
        raise InputError(f"f is the module {name} without its weights: give {HOW}")
    owner = getattr(f, "__self__", None)
    if getattr(f, "__name__", "") == "apply" and hasattr(owner, "init"):
        raise InputError(f"f is {type(owner).__name__}.apply without its weights: give {HOW}")
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):
        return  # a compiled function need not have one
    try:
        signature.bind(*given)
    except TypeError:
        wanted = "the images alone" if len(given) == 1 else "the images and a key"
        raise InputError(
            f"f takes ({', '.join(signature.parameters)}), and is called with {wanted}: bind the "
            "rest, as jax.tree_util.Partial(apply, weights) does"
        ) from None


def _is_nnx(f: Any) -> bool:
    """Whether f is a flax.nnx module, without importing flax.nnx, which takes a second."""
    bases = type(f).__mro__
    return any(b.__module__.startswith("flax.nnx") and b.__name__ == "Module" for b in bases)


def _first_line(error: BaseException) -> str:
    said = str(error).strip().partition(" (http")[0]
    return said.splitlines()[0][:200] if said else "no reason given"


def _fails(like: jax.ShapeDtypeStruct, error: BaseException) -> str:
    hint = "are they NHWC, and of the size that it was made for?"
    if gate.looks_nchw(like.shape):
        hint = "they look like NCHW: pass NHWC, x.transpose(0, 2, 3, 1)"
    seen = f"images {list(like.shape)}, {like.dtype}"
    return f"the classifier fails on {seen}: {hint} It says: {_first_line(error)}"


def layout_warning(shape: tuple[int, ...]) -> str | None:
    """Whether the channels of images [N, H, W, C] seem to stand where the height belongs."""
    if gate.looks_nchw(shape):
        return f"x is {list(shape)}, which looks like NCHW: the attacks take it as NHWC"
    return None


def check_inputs(
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
        if line := layout_warning(x.shape):
            warnings.warn(line, RuntimeWarning, stacklevel=3)
    return classifier(f), x, gate.labels(y, len(x), classes)


def check_dataset(
    f: Callable[..., Array], x: Any, y: Any, *, batch_size: int, key: Array | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """A whole set: x as it is given, in memory or `data.Images`, y, and the number of classes.

    f is looked at on the shape it will be played on: that of a batch.
    """
    gate.check_count("batch_size", batch_size)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((x, y, f, key))):
        raise InputError(
            "a whole set is attacked outside jit, vmap and grad, because it is repacked after "
            "every attack: call this as it is; only single attacks work inside a jit"
        )
    gate.check_images(x)
    n = batch_size if key is None else 1
    like = jax.ShapeDtypeStruct((n, *x.shape[1:]), np.float32)
    classes = classes_of(f, like, *(() if key is None else (key,)))
    gate.labels(y, len(x), classes)
    if not isinstance(x, Images):  # which are read batch by batch
        x = np.asarray(gate.native(x))
    return cast(np.ndarray, x), np.asarray(gate.native(y)), classes


CHECK_EVERY = 10
"""After how many steps the loop asks again whether a batch is finished: it waits for the answer."""


INT32_MAX = 2**31 - 1
"""A compiled loop counts in int32; nobody waits for that many steps."""


def classifier(f: Callable[..., Array]) -> Partial:
    """f as an argument of a jit: a Partial passes, any other callable is wrapped."""
    return f if isinstance(f, Partial) else Partial(f)


def iterate(
    step: Callable[..., Tree],
    carry: Tree,
    *args: Tree,
    steps: int,
    first: int = 0,
    done: Callable[[Tree], Array] | None = None,
    **static: Any,
) -> Tree:
    """carry = step(i, carry, *args, **static) for i = first .. steps - 1, or until done(carry).

    `step` and `done` are functions at module level, static holds hashable settings.
    """
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((carry, args)))
    if not is_cpu() or (traced and done is not None):
        settings = tuple(sorted(static.items()))
        return _compiled(step, done, settings, first, min(steps, INT32_MAX), carry, args)
    finished = None if done is None else jax.jit(done)
    for i in range(first, steps):
        if finished is not None and (i - first) % CHECK_EVERY == 0 and bool(finished(carry)):
            break
        carry = step(i, carry, *args, **static)
    return carry


@partial(jax.jit, static_argnames=("step", "done", "settings"))
def _compiled(step, done, settings, first, steps, carry, args):
    def go_on(state):
        i, carry = state
        return (i < steps) & (True if done is None else ~done(carry))

    def body(state):
        i, carry = state
        return i + 1, step(i, carry, *args, **dict(settings))

    return jax.lax.while_loop(go_on, body, (jnp.asarray(first), carry))[1]


def fooled(logits: Array, y: Array) -> Array:
    """argmax f != y. NaN is no class: to the search such an image still stands."""
    return (logits.argmax(-1) != y) & ~jnp.isnan(logits).any(-1)


def class_of_rank(logits: Array, rank: Array | int) -> Array:
    """The class with the rank-th largest logit; 1 is the top. A tie goes to the lower class."""
    return jax.lax.top_k(logits, logits.shape[-1])[1][:, rank - 1]


def check_rank(rank: int, classes: int) -> None:
    """An InputError unless there is a class of that rank besides the top one."""
    check_count("rank", rank)
    if not 2 <= rank <= classes:
        raise InputError(f"rank {rank}: the target ranks of {classes} classes are 2..{classes}")


def choose(which: Array, a: Tree, b: Tree) -> Tree:
    """a for the images where `which` holds, b for the others."""

    def leaf(a: Array, b: Array) -> Array:
        return jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(leaf, a, b)


def one_by_one(f: Callable[[Array, Array], Array], x: Array, keys: Array) -> Array:
    """f on every image by itself, with its own key: logits [B, K]."""
    return jax.vmap(lambda x, key: f(x[None], key)[0])(x, keys)


@partial(jax.jit, static_argnames="eot")
def draw_keys(keys: Array, eot: int) -> Array:
    """[eot, B] keys from one of every image."""
    return jax.vmap(lambda key: jax.random.split(key, eot), out_axes=1)(keys)


def mean_over_keys(g: Callable[[Array], Tree], keys: Array) -> Tree:
    """The mean of g(keys[i]) over the keys [eot, B]."""
    zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(g, keys[0]))

    def add(carry):
        i, total = carry
        return i + 1, jax.tree.map(jnp.add, total, g(keys[i]))

    _, total = repeat(add, (jnp.array(0), zero), len(keys))
    return jax.tree.map(lambda total: total / len(keys), total)


def mean_logits(f: Callable[[Array, Array], Array], keys: Array, x: Array) -> Array:
    """The logits of f, as a function of the images alone: means over the keys [eot, B]."""
    return mean_over_keys(partial(one_by_one, f, x), keys)
