"""The RNN-learned inner optimiser: a recurrent net chooses directions and steps.

A reconstruction: of the paper (Xiong and Hsieh, arXiv 2004.12227) only abstract and introduction
could be obtained, so cell, steps and losses are ours; docs/methods.md says after whom.

    x_{t+1} = clip(x_t + alpha tanh(o_t)),  (o_t, h_{t+1}) = cell(pre(q_t), h_t),  q_t = grad J(x_t)

phi does not learn through delta but through `gain`. q_t is a constant, so
the gradient of J(x_t) by phi is that of <q_t, x_t(phi)>, and q_t is the next step's input anyway:
learning costs one more gradient, q_T, and no second derivative.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from l2ljax.apply import functional, initialise
from l2ljax.attacker_input import GradNorm, input_gradient, normalise
from l2ljax.ball import box, project, start_of
from l2ljax.devices import repeat
from l2ljax.errors import word
from l2ljax.types import Array, Inner, Problem, Solver

P = 10
"""sign_log tells gradients above e^-p apart by their logarithm (Andrychowicz et al. 2016)."""


def sign_log(q: Array) -> Array:
    """(log|v| / p, sign v) where |v| >= e^-p, else (-1, e^p v): two channels for every v."""
    large = jnp.abs(q) >= math.exp(-P)
    # The logarithm of 0 is never taken: its derivative is NaN even where it is not chosen.
    log = jnp.log(jnp.where(large, jnp.abs(q), 1.0)) / P
    rest = math.exp(P) * q
    return jnp.stack([jnp.where(large, log, -1.0), jnp.where(large, jnp.sign(q), rest)], axis=-1)


def _one_channel(grad_norm: GradNorm) -> Callable[..., Array]:
    return lambda q: normalise(q, grad_norm)[..., None]


PREPROCESS: dict[str, Callable[..., Array]] = {
    "sign_log": sign_log,
    "sign": _one_channel("sign"),
    "batch_max": _one_channel("batch_max"),
    "none": _one_channel("none"),
}
"""What the cell sees of a gradient q: [..., channels]."""

WEIGHTS: dict[str, Callable[[Any, int], Any]] = {
    "ones": lambda t, steps: 1,
    "last": lambda t, steps: t == steps,
    "increment": lambda t, steps: t,
}
"""w_t of the meta-loss sum_t w_t J(x_t); increment is sum_t t (J(x_t) - constant J(x_{t-1}))."""


def step_bound(eps: Array | float, steps: int, bound: float, learned_step: bool) -> Array | float:
    """alpha: eps max(bound, 2/T), so that T steps can cross the ball; a fixed step is 2.5 eps/T."""
    return eps * (max(bound, 2 / steps) if learned_step else 2.5 / steps)


def make_move(
    cell: Any, *, preprocess: str, learned_step: bool
) -> Callable[..., tuple[Array, Any, Array]]:
    """One step: (phi, q, carry, delta, x, eps, alpha) -> delta, carry, tanh(o).

    Without `learned_step` the length is alpha's and only the direction learned. A sign has no
    derivative, so it is written tanh(o) / |tanh(o)| with a constant denominator: the value is
    sign(o), the gradient that of tanh(o) over its size.
    """
    word("input of the cell", preprocess, PREPROCESS)
    g, see = functional(cell), PREPROCESS[preprocess]

    def move(phi, q, carry, delta, x, eps, alpha):
        (o, carry), _ = g(phi, {}, (see(q), carry), "eval")
        out = along = jnp.tanh(o)
        if not learned_step:
            size = stop_gradient(jnp.abs(out))
            along = out / jnp.where(size == 0, 1.0, size)
        return box(x, project(delta + alpha * along, eps)), carry, out

    return move


def rnn(
    cell: Any,
    *,
    steps: int,
    start: str,
    preprocess: str,
    weights: str,
    learned_step: bool,
    bound: float,
    remat: bool,
) -> Solver:
    """delta_{t+1} = Pi(delta_t + alpha tanh(o_t)); gain = mean_i sum_t w_t <q_t, x_t(phi)>.

    `bound` is the largest learned step over eps: 1/2 to start from; 2 lets every step cross the
    ball, and phi then climbs further (benchmarks/inner_optimisers.py).
    delta is a constant to both players. With `remat` the cell's values are computed again on the
    way back instead of being kept for every step. Without `train` there is no gain and no q_T.
    """
    word("weights of the losses", weights, WEIGHTS)
    move = make_move(cell, preprocess=preprocess, learned_step=learned_step)
    begin, see = start_of(start), PREPROCESS[preprocess]
    again = jax.checkpoint(move, prevent_cse=False) if remat else move

    def init(key, x):
        q = jnp.zeros_like(x[:1])
        seen: Any = see(q), cell.zero_carry(q)
        return initialise(cell, key, seen)

    def solve(problem: Problem, theta, phi, phi_stats) -> Inner:
        x, eps, ell, train = problem.x, problem.eps, problem.ell, problem.train
        radii = eps, jnp.asarray(step_bound(eps, steps, bound, learned_step), x.dtype)
        first, fixed = (begin(problem.keys, x, eps), cell.zero_carry(x)), stop_gradient(phi)

        def step(state):
            t, delta, carry, qs, ell, _ = state
            q, ell = input_gradient(ell, theta, x + delta)
            delta, carry, out = move(fixed, q, carry, delta, x, *radii)
            return t + 1, delta, carry, qs.at[t].set(q) if train else qs, ell, out

        def learn(state, seen):
            (delta, carry), (q, after) = state, seen
            delta, carry, _ = again(phi, q, carry, delta, x, *radii)
            return (delta, carry), (after * delta).sum()

        qs = jnp.zeros((steps + 1 if train else 0, *x.shape), x.dtype)
        state = jnp.array(0), *first, qs, ell, jnp.zeros_like(x)
        _, delta, _, qs, ell, out = repeat(step, state, steps)
        seen = {"phi_stats": phi_stats, "theta_stats": ell.stats, "aux": {"tanh": out}}
        if not train:
            return Inner(delta, **seen)
        q, ell = input_gradient(ell, theta, x + delta)
        seen["theta_stats"], qs = ell.stats, qs.at[steps].set(q)
        w = jnp.array([WEIGHTS[weights](t, steps) for t in range(1, steps + 1)], x.dtype)
        # The same steps once more, for phi: no classifier is in them, so the way back is short.
        # <q_t, x> is no function of phi and left out.
        pairs = qs[:-1], w.reshape(-1, *[1] * x.ndim) * qs[1:]
        gain = jax.lax.scan(learn, first, pairs)[1].sum() / len(x)
        return Inner(delta, gain, **seen)

    return Solver(init, solve, begins_at_x=start == "zero")
