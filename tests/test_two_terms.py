"""The two terms of theta's gradient, on solvers whose answer is known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from games import EPS, SmoothClassifier, images
from l2ljax import solvers
from l2ljax.apply import functional, initialise
from l2ljax.ball import per_image, uniform
from l2ljax.bilevel import init_state, make_step
from l2ljax.losses import ATTACK_LOSSES, adversarial, cross_entropy
from l2ljax.solvers import fast_bat
from l2ljax.solvers.implicit import tree_cosine, two_terms
from l2ljax.types import Inner, Method, Solver, no_phi, stream

NAMES = {f"implicit/{name}" for name in ("interior", "cosine", "direct_norm", "cross_norm")}
STEP = 2.0
KEY = jax.random.key(3)


def method_of(solver, order: Any = "simultaneous", learns=False):
    return Method(solver, ATTACK_LOSSES["ce"], adversarial(0.0), learns, order)


def game(solver):
    x, y = images(n=4, size=4, classes=3, dtype=jnp.result_type(float))
    net, method, sgd = SmoothClassifier(), method_of(solver), optax.sgd(1.0)
    theta, _ = initialise(net, jax.random.key(1), x)
    state = init_state(jax.random.key(2), theta, {}, method, sgd, sgd, x)
    return functional(net), method, state, x, y


def measure(solver):
    f, method, state, x, y = game(solver)
    metrics = two_terms(method, f, "batch")(KEY, state, x, y, EPS)
    assert set(metrics) == NAMES
    return {name.removeprefix("implicit/"): float(value) for name, value in metrics.items()}


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def test_a_solver_that_stops_theta_has_one_term():
    metrics = measure(solvers.pgm(2, EPS / 4, "uniform"))
    assert metrics["cross_norm"] == metrics["cosine"] == 0
    assert metrics["direct_norm"] > 0.01


def test_the_cross_term_of_fast_bat_is_the_one_written_by_hand():
    with jax.enable_x64(True):
        metrics = measure(fast_bat("random", STEP, 1 / STEP, "z"))
        f, _, state, x, y = game(fast_bat("random", STEP, 1 / STEP, "z"))
        z = uniform(per_image(stream(KEY, "images"), len(x)), x, EPS)

        def c(theta, d):
            return cross_entropy(f(theta, {}, x + d, "batch")[0], y).sum()

        delta = jnp.clip(z + STEP * jax.grad(c, 1)(state.theta, z), -EPS, EPS)
        H = (-EPS < delta) & (delta < EPS)
        v = STEP * H * jax.grad(c, 1)(state.theta, delta)
        mixed = jax.grad(lambda theta: jax.jvp(lambda d: c(theta, d), (z,), (v,))[1])
        cross = flat(mixed(state.theta)) / len(x)
        direct = flat(jax.grad(c)(state.theta, delta)) / len(x)
        norms = np.linalg.norm(direct), np.linalg.norm(cross)
        assert 0.1 < metrics["interior"] < 0.9 and norms[1] > 1e-3
        np.testing.assert_allclose(metrics["interior"], H.mean())
        np.testing.assert_allclose((metrics["direct_norm"], metrics["cross_norm"]), norms)
        np.testing.assert_allclose(metrics["cosine"], direct @ cross / norms[0] / norms[1])


def test_the_two_terms_add_up_to_the_gradient_of_a_step():
    with jax.enable_x64(True):
        solver = fast_bat("ns_pgd_zero", STEP, 0.1, "z")
        m = measure(solver)
        f, method, state, x, y = game(solver)
        step = jax.jit(make_step(f, method, optax.sgd(1.0), optax.sgd(1.0), eps=EPS))
        whole = step(state, (x, y), jax.random.key(0))[1]["theta/grad_norm"]
        both = 2 * m["cosine"] * m["direct_norm"] * m["cross_norm"]
        total = np.sqrt(m["direct_norm"] ** 2 + m["cross_norm"] ** 2 + both)
        np.testing.assert_allclose(total, whole)
        assert m["cross_norm"] > 1e-2 and abs(total - m["direct_norm"]) > 1e-3


def fixed(delta, radius=1.0):
    def solve(problem, theta, phi, phi_stats):
        return Inner(delta)

    return Solver(no_phi, solve, radius)


@pytest.mark.parametrize("radius, inside", [(1.0, 1), (3.0, 4)])
def test_the_interior_is_counted_strictly_inside_ball_and_box(radius, inside):
    x = jnp.array([0.5, 0.5, 0.5, 0.0, 1.0, 0.05, 0.5, 0.5]).reshape(1, 2, 4, 1)
    delta = jnp.array([0.03, EPS, -EPS, 0.0, 0.0, -0.05, 2 * EPS, -3 * EPS]).reshape(x.shape)
    method = method_of(fixed(delta, radius))
    net, sgd = SmoothClassifier(), optax.sgd(1.0)
    theta, _ = initialise(net, jax.random.key(1), x)
    state = init_state(jax.random.key(2), theta, {}, method, sgd, sgd, x)
    metrics = two_terms(method, functional(net), "batch")(KEY, state, x, jnp.array([1]), EPS)
    np.testing.assert_allclose(metrics["implicit/interior"], inside / 8)


@pytest.mark.parametrize("craft_bn", ["batch", "update", "eval"])
@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_the_modes_are_those_of_thetas_turn(order, craft_bn):
    seen = []

    def apply(theta, stats, x, mode, rng=None):
        seen.append(mode)
        return x.reshape(len(x), -1)[:, :3] * theta, stats

    def solve(problem, theta, phi, phi_stats):
        problem.ell(theta, problem.x)
        seen.append("attacker " + ("train" if problem.train else "eval"))
        return Inner(jnp.zeros_like(problem.x))

    method, sgd = method_of(Solver(no_phi, solve), order, learns=True), optax.sgd(1.0)
    x, y = images(classes=3)
    state = init_state(jax.random.key(0), jnp.ones(()), {}, method, sgd, sgd, x)
    two_terms(method, apply, craft_bn)(KEY, state, x, y, EPS)
    attacker = "attacker train" if order == "simultaneous" else "attacker eval"
    assert seen == [craft_bn, attacker, "update"]


def test_one_compilation_serves_every_epoch():
    f, method, state, x, y = game(fast_bat("ns_pgd", STEP, 10.0, "z"))
    traced = []

    def counted(*args, **settings):
        traced.append(1)
        return f(*args, **settings)

    probe = two_terms(method, counted, "batch")
    first = probe(jax.random.key(0), state, x, y, EPS)
    once = len(traced)
    theta = jax.tree.map(lambda w: 1.1 * w, state.theta)
    second = probe(jax.random.key(1), state._replace(theta=theta), x, y, EPS / 2)
    assert once == len(traced) > 0
    assert first["implicit/cross_norm"] != second["implicit/cross_norm"]


def test_the_cosine_of_known_trees():
    a, b = (
        {"w": jnp.array([3.0]), "b": jnp.array(4.0)},
        {"w": jnp.array([4.0]), "b": jnp.array(3.0)},
    )
    nothing = {"w": jnp.zeros(1), "b": jnp.zeros(())}
    np.testing.assert_allclose(tree_cosine(a, b), 24 / 25, rtol=1e-6)
    np.testing.assert_allclose(tree_cosine(a, jax.tree.map(jnp.negative, a)), -1, rtol=1e-6)
    assert tree_cosine(a, nothing) == tree_cosine(nothing, b) == 0
