"""The loop of an attack: Python over one compiled step on the CPU backend, one program elsewhere.

A convolution inside `fori_loop` is many times slower on CPU (github.com/jax-ml/jax/issues/12868).
Inside a caller's own jit or vmap nobody can look whether a batch is finished, so that there an
attack that may end early is one program on every backend.
`step` is a jit at module level and everything it needs is an argument, the classifier too (as a
`jax.tree_util.Partial`), so another set of weights costs no new compilation, here or there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.core import Tracer
from jax.tree_util import Partial

from l2ljax.target import is_cpu
from l2ljax.types import Array, Tree

CHECK_EVERY = 10
"""Steps between two looks at whether a batch is finished; a look waits for the device."""


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
        return _compiled(step, done, settings, first, steps, carry, args)
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

    return jax.lax.while_loop(go_on, body, (jax.numpy.asarray(first), carry))[1]
