"""Carlini and Wagner's l_inf attack in the two forms that tables mean by "CW".

    x_adv = cw_margin(rng, f, x, y, eps=8/255, steps=100, step_size=2/255, start="uniform")
    x_adv = cw_strict(rng, f, x, y, eps=8/255, steps=MOST_STEPS)

`cw_margin` is PGD with their margin loss ("CW100": 100 steps, kappa 50). `cw_strict` is the search
of the L2L authors' code (cw.py), for many images at once: in their loop over single images each
has its own c, tau, variable and Adam, so here all four are arrays, and one step moves every image
from wherever it has got to. The paper's equation 4 penalises the points that do fool f: a sign
typo. Their code penalises the others, and so does this.
"""

from collections.abc import Callable
from functools import partial
from math import ceil, log
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2ljax import gate
from l2ljax.attacks.entrance import check_inputs, choose, fooled, iterate
from l2ljax.attacks.pgd import begin
from l2ljax.ball import PROJECT, box, size, steepest
from l2ljax.losses import margin
from l2ljax.types import Array, Tree

KAPPA = 50.0
"""The confidence Madry et al. ask for (mnist_challenge and cifar10_challenge, pgd_attack.py)."""


class Best(NamedTuple):
    """Where a margin attack stands, and the perturbation of the largest margin so far."""

    delta: Array
    best: Array
    margin: Array


@partial(jax.jit, static_argnames="norm")
def _margin_step(i, s, f, x, y, eps, step_size, kappa, *, norm):
    def climbed(delta):
        m = margin(f(x + delta), y)
        return -jax.nn.relu(kappa - m).sum(), m

    (_, m), u = jax.value_and_grad(climbed, has_aux=True)(s.delta)
    delta = box(x, PROJECT[norm](s.delta + step_size * steepest(u, norm), eps))
    return Best(delta, choose(m > s.margin, s.delta, s.best), jnp.fmax(m, s.margin))


@jax.jit
def _last(f, x, y, s):
    return x + choose(margin(f(x + s.delta), y) > s.margin, s.delta, s.best)


def cw_margin(
    rng: Array,
    f: Callable[[Array], Array],
    x: Array,
    y: Array,
    *,
    eps: float,
    steps: int,
    step_size: float,
    start: str | Array,
    kappa: float = KAPPA,
    norm: str = "linf",
) -> Array:
    """PGD up -(Z_y - max_{t != y} Z_t + kappa)_+; of its iterates, the one of largest margin."""
    gate.check_count("steps", steps)
    gate.check_positive("step_size", step_size)
    f, x, y = check_inputs(f, x, y, eps=eps, norm=norm)
    delta = begin(rng, x, start, eps=eps, norm=norm)
    carry = Best(delta, delta, jnp.full(len(x), -jnp.inf, x.dtype))
    args = (f, x, y, eps, step_size, kappa)
    return _last(f, x, y, iterate(_margin_step, carry, *args, steps=steps, norm=norm))


ITERATIONS = 50
"""Steps of Adam for each value of c (L2L code, cw.py; Carlini's own code: 1000)."""

CONSTANTS = tuple(10.0**k for k in range(-5, 2))
"""c: from 1e-5 by factors of 10, below 100 (L2L code; Carlini's: factors of 2, below 20)."""

ADAM = optax.adam(5e-3)
"""Its learning rate is that of both codes."""

ABORT = 1e-4
"""A loss below ABORT c is a solution for this tau, if f is fooled (both codes)."""

SHRINK = 0.9
"""What tau is multiplied by after a solution (both codes)."""

LEAST_TAU = 1 / 256
"""At or below this the search gives up (both codes)."""

INSIDE = 0.9999
"""Keeps arctanh finite at a black or a white pixel (L2L code; Carlini's: 0.999999)."""

MOST_STEPS = ITERATIONS * (ceil(log(LEAST_TAU) / log(SHRINK)) + len(CONSTANTS) - 1)
"""The steps within which every image ends: each value of c and of tau can cost ITERATIONS."""


class Search(NamedTuple):
    """Where the strict search has got to, for every image.

    The variable is m, the candidate tanh(m + origin) / 2 + 1/2; k counts the values of c.
    """

    x_adv: Array
    origin: Array
    m: Array
    adam: Tree
    tau: Array
    k: Array
    iteration: Array
    done: Array


@jax.jit
def _setup(f, x, y):
    m, count = jnp.zeros_like(x), jnp.zeros(len(x), jnp.int32)
    tau, done = jnp.ones(len(x), x.dtype), fooled(f(x), y)
    return Search(x, _origin(x), m, jax.vmap(ADAM.init)(m), tau, count, count, done)


def _origin(x: Array) -> Array:
    return jnp.arctanh(INSIDE * (2 * x - 1))


@jax.jit
def _strict_step(i, s, f, x, y, eps):
    c = jnp.asarray(CONSTANTS, x.dtype)[s.k]

    def objective(m):
        image = jnp.tanh(m + s.origin) / 2 + 0.5
        logits = f(image)
        excess = jax.nn.relu(jnp.abs(image - x) - s.tau[:, None, None, None])
        loss = c * jax.nn.relu(-margin(logits, y)) + excess.sum((1, 2, 3))
        return loss.sum(), (loss, image, fooled(logits, y))

    (_, (loss, image, wrong)), u = jax.value_and_grad(objective, has_aux=True)(s.m)
    update, adam = jax.vmap(ADAM.update)(u, s.adam)
    largest = size(image - x, "linf")[:, 0, 0, 0]
    hit = wrong & (largest < eps)
    solved = wrong & ~hit & (loss < ABORT * c)
    spent = ~solved & (s.iteration + 1 == ITERATIONS)

    # A solution is where the next tau begins, with a fresh variable; c goes on where it was.
    tau = jnp.where(solved, SHRINK * jnp.minimum(s.tau, largest), s.tau)
    origin = choose(solved, _origin(image), s.origin)
    zero = jnp.zeros_like(s.m)
    m, adam = choose(solved, (zero, jax.vmap(ADAM.init)(zero)), (s.m + update, adam))
    k = s.k + spent
    iteration = jnp.where(solved | spent, 0, s.iteration + 1)
    done = hit | (tau <= LEAST_TAU) | (k == len(CONSTANTS))
    moved = Search(choose(hit, image, s.x_adv), origin, m, adam, tau, k, iteration, done)
    return choose(s.done, s, moved)


def _finished(s: Search) -> Array:
    return s.done.all()


def cw_strict(
    rng: Array, f: Callable[[Array], Array], x: Array, y: Array, *, eps: float, steps: int
) -> Array:
    """The first x' with max |x' - x| < eps that fools f, on the way down a penalty; x without one.

    min over m of c (Z_y - max_{t != y} Z_t)_+ + sum_pixels (|x' - x| - tau)_+ for
    x' = tanh(m + arctanh(2 x_prev - 1)) / 2 + 1/2. Images that are misclassified come back as they
    are. `steps` is a budget: an image that needs more counts as standing. rng is not used.
    """
    gate.check_count("steps", steps)
    f, x, y = check_inputs(f, x, y, eps=eps)
    carry = _setup(f, x, y)
    return iterate(_strict_step, carry, f, x, y, eps, steps=steps, done=_finished).x_adv
