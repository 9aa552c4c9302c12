"""PGM/PGD as an attack on any classifier (equation 2; papers.md 4.6).

    x_adv = pgd(rng, f, x, y, eps=8/255, steps=10, step_size=2/255, start="uniform", loss="ce")

f maps images [B, H, W, C] in [0, 1] to logits. Give it as `jax.tree_util.Partial(apply, theta)`
and another set of weights costs no new compilation. rng is one key, or one key per image. On CPU
the steps are a Python loop over one compiled step: a loop inside would be many times slower there.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from l2ljax.ball import STARTS, box, project
from l2ljax.losses import cross_entropy, hinge, margin
from l2ljax.names import nearest
from l2ljax.types import Array

LOSSES = {"ce": cross_entropy, "margin": margin, "hinge": hinge}
"""What the attack climbs."""


@partial(jax.jit, static_argnames="loss")
def _step(f, x, y, delta, eps, step_size, loss):
    u = jax.grad(lambda x: LOSSES[loss](f(x), y).sum())(x + delta)
    return box(x, project(delta + step_size * jnp.sign(u), eps))


@partial(jax.jit, static_argnames=("loss", "steps"))
def _steps(f, x, y, delta, eps, step_size, loss, steps):
    def body(_, delta):
        return _step(f, x, y, delta, eps, step_size, loss)

    return jax.lax.fori_loop(0, steps, body, delta)


@partial(jax.jit, static_argnames="start")
def _start(rng, x, eps, start):
    return STARTS[start](rng, x, eps)


def pgd(
    rng: Array,
    f: Callable[[Array], Array],
    x: Array,
    y: Array,
    *,
    eps: float,
    steps: int,
    step_size: float,
    start: str,
    loss: str,
) -> Array:
    """x + delta after `steps` sign steps of size `step_size`, inside the eps-ball and the box."""
    for kind, name, known in (("start", start, STARTS), ("loss", loss, LOSSES)):
        if name not in known:
            raise ValueError(nearest(kind, name, known))
    f = f if isinstance(f, Partial) else Partial(f)
    delta = _start(rng, x, eps, start)
    if jax.default_backend() == "cpu":
        for _ in range(steps):
            delta = _step(f, x, y, delta, eps, step_size, loss)
        return x + delta
    return x + _steps(f, x, y, delta, eps, step_size, loss, steps)


def fgsm(rng: Array, f: Callable[[Array], Array], x: Array, y: Array, *, eps: float) -> Array:
    """x + eps sign(grad_x ell): one PGM step of size eps from zero."""
    return pgd(rng, f, x, y, eps=eps, steps=1, step_size=eps, start="zero", loss="ce")
