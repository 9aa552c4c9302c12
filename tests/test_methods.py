"""Claims about every row of METHODS; a new row is checked without being told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from games import EPS, SGD, images, keys, method_of, small_net
from l2ljax.bilevel import init_state, make_step
from l2ljax.methods import METHODS, make_method


@pytest.fixture(scope="module")
def net():
    return small_net()


def solve(net, name, eps=EPS, seed=3, x=None, train=False):
    f, theta, stats = net
    method = method_of(name)
    default, y = images()
    x = default if x is None else x
    phi, phi_stats = method.solver.init(jax.random.key(2), x)
    ell = method.attack_loss(lambda theta, x: f(theta, stats, x, "batch")[0], theta, x, y)

    @jax.jit
    def run(phi, eps):
        return method.solver.solve(
            keys(seed=seed), theta, phi, phi_stats, ell, x, y, eps=eps, train=train
        )

    return x, run(phi, eps), method


@pytest.mark.parametrize("name", METHODS)
def test_delta_stays_in_ball_and_box(net, name):
    x = jax.random.uniform(jax.random.key(9), images()[0].shape).round(1)  # many 0.0 and 1.0
    x, inner, method = solve(net, name, x=x)
    assert float(jnp.abs(inner.delta).max()) <= method.solver.radius * EPS + 1e-8
    assert 0.0 <= float((x + inner.delta).min()) and float((x + inner.delta).max()) <= 1.0
    if name != "plain":
        assert float(jnp.abs(inner.delta).max()) > 0


@pytest.mark.parametrize("name", METHODS)
def test_zero_eps_gives_zero_delta(net, name):
    assert float(jnp.abs(solve(net, name, eps=0.0)[1].delta).max()) == 0.0


@pytest.mark.parametrize("name", METHODS)
def test_same_key_same_delta(net, name):
    np.testing.assert_array_equal(solve(net, name)[1].delta, solve(net, name)[1].delta)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_moves_phi_exactly_if_it_learns_and_compiles_once(net, name):
    f, theta, stats = net
    method, (x, y) = method_of(name), images()
    state = init_state(jax.random.key(2), theta, stats, method, SGD, SGD, x)
    step = jax.jit(make_step(f, method, SGD, SGD, eps=EPS))
    after, metrics = step(state, (x, y), jax.random.key(0))
    again, _ = step(after, (x, y), jax.random.key(0))
    assert step._cache_size() == 1
    assert int(again.step) == 2
    moved = [
        bool((a != b).any())
        for a, b in zip(*map(jax.tree.leaves, (state.theta, after.theta)), strict=True)
    ]
    assert any(moved)
    phi = [
        bool((a != b).any())
        for a, b in zip(*map(jax.tree.leaves, (state.phi, after.phi)), strict=True)
    ]
    assert any(phi) == method.learns == METHODS[name].learns
    assert ("phi/grad_norm" in metrics) == method.learns
    assert all(bool(jnp.isfinite(value)) for value in metrics.values())


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'grad_l2l'"):
        make_method(
            "grad_12l",
            attacker=None,
            inner_steps=1,
            step_size=0.1,
            start="zero",
            grad_norm="none",
            attack_loss="ce",
            mix=True,
            smoothing=0.0,
            order="simultaneous",
        )
