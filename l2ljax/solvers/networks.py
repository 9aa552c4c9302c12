"""The attackers g of L2L: a network sees A(x, y, theta) and answers with a perturbation.

l2l is the paper's (section 2.2): Grad L2L for K = 1, 2-Step L2L for K = 2, and with an A that shows
the image alone Naive L2L. kstep_l2l and interp are the authors' code's, which the paper does not
describe; interp comes with the two losses that it was made for.

phi's gradient has the path through the image that the next call sees, and none through u.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import stop_gradient

from l2ljax import devices
from l2ljax.apply import functional, initialise
from l2ljax.attacker_input import AttackerInput, example_input
from l2ljax.ball import Radii, box, check_perturbation, length, noise, project, start_of
from l2ljax.devices import repeat
from l2ljax.losses import cosine, cross_entropy, smooth
from l2ljax.types import Array, Ell, Forward, Inner, Problem, Solver, TrainLoss, Tree


def _network(attacker: Any, A: AttackerInput) -> tuple[Callable, Callable]:
    """The init of a solver that has g, and g itself in the mode that the problem asks for."""
    g = functional(attacker)

    def init(key: Array, x: Array) -> tuple[Tree, Tree]:
        return initialise(attacker, key, example_input(A, x))

    def play(problem: Problem, phi: Tree, phi_stats: Tree, a: Array) -> tuple[Array, Tree]:
        out, phi_stats = g(phi, phi_stats, a, "update" if problem.train else "eval")
        check_perturbation(problem.x, out)
        return out, phi_stats

    return init, play


def l2l(attacker: Any, A: AttackerInput, *, steps: int, start: str) -> Solver:
    """s_{t+1} = Pi(s_t + eps g(A(x_t))), x_t = x + box(s_t), s_0 = 0; delta = box(s_K), K = steps.

    All steps share phi. The start says where the first gradient is taken, x_0; it is no part of
    delta. The sum is of the attacker's raw outputs, as in the paper and in the authors' code: only
    the image that the next call sees is cut to the box.
    """
    (init, play), begin = _network(attacker, A), start_of(start)

    def solve(problem: Problem, theta, phi, phi_stats) -> Inner:
        x, y, eps = problem.x, problem.y, problem.eps

        def step(carry):
            total, offset, phi_stats, ell, _ = carry
            a, ell = A(x + offset, y, theta, ell)
            out, phi_stats = play(problem, phi, phi_stats, a)
            total = project(total + eps * out, eps)
            return total, box(x, total), phi_stats, ell, out

        nothing = jnp.zeros_like(x)
        carry = nothing, begin(problem.keys, x, eps), phi_stats, problem.ell, nothing
        _, delta, phi_stats, ell, out = repeat(step, carry, steps)
        return Inner(delta, phi_stats=phi_stats, theta_stats=ell.stats, aux={"tanh": out})

    return Solver(init, solve, begins_at_x=start == "zero")


def kstep_l2l(
    attacker: Any, A: AttackerInput, *, steps: int, step_size: float | Radii, start: str
) -> Solver:
    """x_{t+1} = clip01(x_t + (eta/eps) g([x_t, u(x_t)])), eta = step_size; delta = Pi(x_K - x).

    The K-step attacker of the authors' adv_loss.py. It is not the recurrence of 2-Step L2L: the
    step is eta and not eps, the attacker's inputs are constants at every step, the start is a part
    of delta, and the ball is applied once, at the end.
    """
    (init, play), begin = _network(attacker, A), start_of(start)

    def solve(problem: Problem, theta, phi, phi_stats) -> Inner:
        x, y, eps = problem.x, problem.y, problem.eps

        def step(carry):
            delta, phi_stats, ell, _ = carry
            a, ell = A(x + delta, y, theta, ell)
            out, phi_stats = play(problem, phi, phi_stats, stop_gradient(a))
            return box(x, delta + length(step_size, eps) * out), phi_stats, ell, out

        carry = begin(problem.keys, x, eps), phi_stats, problem.ell, jnp.zeros_like(x)
        delta, phi_stats, ell, out = repeat(step, carry, steps)
        delta = project(delta, eps)
        return Inner(delta, phi_stats=phi_stats, theta_stats=ell.stats, aux={"tanh": out})

    return Solver(init, solve, begins_at_x=start == "zero")


def interp(attacker: Any, A: AttackerInput, *, steps: int) -> Solver:
    """d_{t+1} = box(d_t + eps g([x + d_t, u(x + d_t)])), d_0 ~ U(-eps, eps); delta = Pi(d_K).

    L2L on adversarial interpolation, made for `toward_partner`, whose ell = -L. u is the gradient
    of L itself, as in the authors' code, and not that of ell. phi climbs
    gain = mean_i ell(theta, x_i + delta_i), in which theta is a constant, and theta learns on a
    constant delta: one attacker pass serves both players. The noise before the first call is a
    part of delta, and cut to the box only after that call. The ball is applied once, at the end.
    """
    init, play = _network(attacker, A)

    def solve(problem: Problem, theta, phi, phi_stats) -> Inner:
        x, y, eps = problem.x, problem.y, problem.eps

        def step(carry):
            delta, phi_stats, L, _ = carry
            a, L = A(x + delta, y, theta, L)
            out, phi_stats = play(problem, phi, phi_stats, a)
            return box(x, delta + eps * out), phi_stats, L, out

        carry = noise(problem.keys, x, eps), phi_stats, _negative(problem.ell), jnp.zeros_like(x)
        delta, phi_stats, L, out = repeat(step, carry, steps)
        delta, gain = project(delta, eps), 0.0
        if problem.train:
            distance, L = L.look(stop_gradient(theta), x + delta)
            gain = -distance.mean()
        return Inner(stop_gradient(delta), gain, phi_stats, L.stats, aux={"tanh": out})

    return Solver(init, solve)


def _negative(ell: Ell) -> Ell:
    def loss(theta: Tree, stats: Tree, x: Array, draw: Array | int) -> tuple[Array, Tree]:
        value, stats = ell.loss(theta, stats, x, draw)
        return -value, stats

    return dataclasses.replace(ell, loss=loss)


def partner(batch: Array) -> Array:
    """The batch in reversed order, over all devices: who is paired with whom, said once."""
    last = devices.count() - 1
    swap = [(device, last - device) for device in range(last + 1)]
    return devices.over_devices(batch, lambda x, axis: lax.ppermute(x, axis, swap))[::-1]


def toward_partner(forward: Forward, theta: Tree, stats: Tree, x: Array, y: Array) -> Ell:
    """ell = -L, L(z)_i = max(0, 1 - cos(feature(z_i), c_i)), c the partners' constant features.

    Every image moves towards another one, its partner: an attack climbs ell, and this one lowers
    L. There is no label in it, only the features that the classifier's head sees.
    """
    own, stats = forward(theta, stats, x, features=True)
    c = partner(stop_gradient(own))

    def loss(theta: Tree, stats: Tree, z: Array, draw: Array | int) -> tuple[Array, Tree]:
        found, stats = forward(theta, stats, z, draw, features=True)
        return -jax.nn.relu(1 - cosine(found, c)), stats

    return Ell(loss, stats, looks=1)


def interpolated_labels(y: Array, num_classes: int, eps_y: float) -> Array:
    """(1 - eps_y) y + eps_y (1 - y') / (K - 1), y and the partner's y' one-hot.

    The label gives away mass to all classes but the partner's.
    """
    one_hot = jax.nn.one_hot(y, num_classes)
    others = (1 - partner(one_hot)) / (num_classes - 1)
    return (1 - eps_y) * one_hot + eps_y * others


def interpolated(eps_y: float, label_smoothing: float) -> TrainLoss:
    """mean_i CE(f(x_i + delta_i), y~_i), y~ the interpolated labels; accuracy is against y."""

    def train_loss(forward, problem: Problem, theta, theta_stats, inner: Inner):
        y = problem.y
        logits, theta_stats = forward(theta, theta_stats, problem.x + inner.delta)
        soft = interpolated_labels(y, logits.shape[-1], eps_y)
        loss = cross_entropy(logits, smooth(soft, logits.shape[-1], label_smoothing)).mean()
        accuracy = (logits.argmax(-1) == y).mean()
        return loss, theta_stats, {"theta/robust_accuracy": accuracy}

    return train_loss
