"""What the attacks are made of: their loop, questions to logits, and classifiers that draw.

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

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import Partial

from l2ljax.errors import InputError
from l2ljax.gate import check_count
from l2ljax.target import is_cpu, repeat
from l2ljax.types import Array, Tree

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
