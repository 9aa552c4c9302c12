"""The learned optimiser: its cell, its meta-gradient against plain autodiff, what it learns."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

import games
from games import EPS, SmoothClassifier, images, keys
from l2ljax.apply import functional, initialise
from l2ljax.attacks.learned import learned_attack
from l2ljax.ball import STARTS
from l2ljax.devices import AXIS
from l2ljax.losses import cross_entropy
from l2ljax.models import CoordinateLSTM
from l2ljax.solvers.recurrent import (
    PREPROCESS,
    WEIGHTS,
    make_move,
    rnn,
    sign_log,
    step_bound,
)
from l2ljax.types import without_statistics

X, Y = images(size=4, classes=3)
NET = functional(SmoothClassifier())
SETTINGS = {"preprocess": "sign_log", "start": "uniform", "weights": "ones"}
SETTINGS |= {"remat": False, "learned_step": True, "bound": 0.5}


@functools.cache
def solver(steps=3, hidden=4, **changes):
    return rnn(CoordinateLSTM(hidden), steps=steps, **SETTINGS | changes)


@functools.cache
def net(seed=1):
    return initialise(SmoothClassifier(), jax.random.key(seed), X)[0]


def phi_of(channels=2, hidden=4, scale=1.0):
    """A phi whose output is as large as a trained one's."""
    rng = np.random.default_rng(0)
    shapes = {"input": (4 * hidden, channels), "state": (4 * hidden, hidden), "output": (1, hidden)}
    return {k: scale * rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


def grown(tree):
    return jax.tree.map(lambda w: np.asarray(w, np.float64), tree)


def ell_of(y):
    return without_statistics(lambda theta, x: cross_entropy(NET(theta, {}, x, "eval")[0], y))


def solve(rule, phi, x=X, y=Y, theta=None, ell=None, train=False, eps=EPS):
    ell, theta = ell or ell_of(y), net() if theta is None else theta
    return games.solve(rule, ell, x, y, theta, phi, eps=eps, train=train)


def play(rule, phi, **how):
    return jax.jit(lambda phi: solve(rule, phi, **how))(phi)


def learn(rule, phi, **how):
    """(gain, what the solver returns), and the gradient of the first by phi."""

    def gain(phi):
        inner = solve(rule, phi, train=True, **how)
        return inner.gain, inner

    return jax.jit(jax.value_and_grad(gain, has_aux=True))(phi)


def lstm(phi, a, h, c):
    """The cell as a textbook has it, gate by gate."""
    w, v, n = phi["input"].T, phi["state"].T, phi["output"].size
    i, f, u, r = (a @ w[:, k * n : (k + 1) * n] + h @ v[:, k * n : (k + 1) * n] for k in range(4))
    c = c / (1 + jnp.exp(-f)) + jnp.tanh(u) / (1 + jnp.exp(-i))
    h = jnp.tanh(c) / (1 + jnp.exp(-r))
    return (h @ phi["output"].T)[..., 0], h, c


@pytest.mark.parametrize("pre, parameters", [("batch_max", 450), ("sign_log", 490)])
def test_the_cell_has_450_parameters_with_one_channel_and_490_with_two(pre, parameters):
    phi, stats = solver(hidden=10, preprocess=pre).init(jax.random.key(0), X)
    assert sum(w.size for w in jax.tree.leaves(phi)) == parameters and stats == {}
    bound = 1 / math.sqrt(10)
    for name, most in (("input", bound), ("state", bound), ("output", bound / 10)):
        assert 0.5 * most < np.abs(phi[name]).max() <= most


def test_the_cell_is_a_textbook_lstm_for_every_coordinate():
    with jax.enable_x64(True):
        cell, phi = CoordinateLSTM(4), grown(phi_of())
        a = np.random.default_rng(1).normal(size=(2, 3, 3, 1, 2))
        h = c = np.zeros((2, 3, 3, 1, 4))

        @jax.jit
        def both(carry, h, c):
            results = []
            for k in range(3):
                (o, carry), _ = functional(cell)(phi, {}, ((k + 1) * a, carry), "eval")
                expected, h, c = lstm(phi, (k + 1) * a, h, c)
                results.append(((o, carry), (expected, (h, c))))
            return results

        for ours, expected in both(cell.zero_carry(a[..., 0]), h, c):
            assert ours[0].shape == a.shape[:-1] and ours[0].dtype == jnp.float64
            chex.assert_trees_all_close(ours, expected, atol=1e-14)


def test_the_cell_computes_in_the_type_of_its_input():
    cell, a = CoordinateLSTM(4), jnp.ones((2, 4, 2), jnp.bfloat16)
    seen = a, cell.zero_carry(a[..., 0])
    phi, _ = initialise(cell, jax.random.key(1), seen)
    out = jax.eval_shape(lambda phi: functional(cell)(phi, {}, seen, "eval")[0], phi)
    assert all(v.dtype == jnp.bfloat16 for v in jax.tree.leaves(out))
    assert all(w.dtype == jnp.float32 for w in jax.tree.leaves(phi))


def test_sign_log_by_hand():
    v = np.array([1.0, -math.exp(-5), math.exp(-9.9), -math.exp(-12), 0.0, math.exp(3)])
    first = [0.0, -0.5, -0.99, -1.0, -1.0, 0.3]
    second = [1.0, -1.0, 1.0, -math.exp(-2), 0.0, 1.0]
    np.testing.assert_allclose(sign_log(v), np.transpose([first, second]), atol=1e-6)


@pytest.mark.parametrize("pre", PREPROCESS)
def test_a_zero_gradient_is_finite_and_so_is_its_derivative(pre):
    see = PREPROCESS[pre]
    for values in ([0.0, 0.0, 1e-38, 3.0], [0.0] * 4):
        q = np.float32(values).reshape(1, 2, 2, 1)
        assert see(q).shape == (1, 2, 2, 1, 2 if pre == "sign_log" else 1)
        assert bool(jnp.isfinite(see(q)).all())
        assert bool(jnp.isfinite(jax.grad(lambda q: see(q).sum())(q)).all())


def test_batch_max_is_the_maximum_of_all_devices():
    q = np.float32([1.0, -4.0]).reshape(2, 1, 1, 1, 1)
    see = jax.vmap(PREPROCESS["batch_max"], axis_name=AXIS)
    np.testing.assert_allclose(see(q).ravel(), [0.25, -1.0])


@pytest.mark.parametrize(
    "steps, half, double, fixed", [(1, 2, 2, 2.5), (3, 2 / 3, 2, 5 / 6), (10, 0.5, 2, 0.25)]
)
def test_t_steps_can_cross_the_ball_and_are_no_longer_than_the_bound_if_they_need_not(
    steps, half, double, fixed
):
    assert step_bound(EPS, steps, 0.5, learned_step=True) == pytest.approx(half * EPS)
    assert step_bound(EPS, steps, 2.0, learned_step=True) == pytest.approx(double * EPS)
    assert step_bound(EPS, steps, 2.0, learned_step=False) == pytest.approx(fixed * EPS)


def reference(phi, x, theta, steps, learned_step):
    """The inner loop in plain autodiff: every J(x_t) itself, the inputs of the cell constant."""
    constant, ell = jax.lax.stop_gradient, ell_of(Y)
    delta = STARTS["uniform"](keys(len(x)), x, EPS)
    h = c = jnp.zeros((*x.shape, 4))
    losses = []
    for _ in range(steps):
        q = constant(jax.grad(lambda x: ell(theta, x).sum())(x + delta))
        o, h, c = lstm(phi, constant(sign_log(q)), h, c)
        direction, alpha = jnp.tanh(o), EPS * max(1 / 2, 2 / steps)
        if not learned_step:
            direction, alpha = direction / constant(jnp.abs(direction)), 2.5 * EPS / steps
        delta = jnp.clip(delta + alpha * direction, -EPS, EPS)
        losses.append(ell(theta, x + delta).mean())
    rises = [t * (losses[t - 1] - constant(losses[t - 2])) for t in range(2, steps + 1)]
    total = {"ones": sum(losses), "last": losses[-1], "increment": losses[0] + sum(rises)}
    return total, dict.fromkeys(total, delta)


@pytest.mark.parametrize("learned_step", [True, False])
def test_phis_gradient_of_gain_is_autodiff_of_the_losses_on_the_way(learned_step):
    with jax.enable_x64(True):
        x, theta, phi = grown((X, net(), phi_of(scale=0.5)))
        rules = {w: solver(3, weights=w, learned_step=learned_step) for w in WEIGHTS}

        def gains(phi):
            found = {w: solve(rules[w], phi, x=x, theta=theta, train=True) for w in rules}
            return {w: i.gain for w, i in found.items()}, {w: i.delta for w, i in found.items()}

        @jax.jit
        def both(phi):
            losses = functools.partial(reference, x=x, theta=theta, steps=3)
            losses = functools.partial(losses, learned_step=learned_step)
            return [jax.jacrev(part, has_aux=True)(phi) for part in (gains, losses)]

        ours, expected = both(phi)
        chex.assert_trees_all_close(ours, expected, rtol=1e-9, atol=1e-12)
        assert all(float(jnp.abs(g).max()) > 1e-6 for g in jax.tree.leaves(ours[0]))
        first = [ours[0][w]["state"] for w in WEIGHTS]
        assert all(bool((first[i] != first[i - 1]).any()) for i in range(3))


def test_delta_is_a_constant_to_both_players_and_gain_to_theta():
    def parts(theta, phi):
        inner = solve(solver(), phi, theta=theta, train=True)
        return (inner.delta * X).sum(), inner.gain

    of_delta, of_gain = jax.jit(jax.jacrev(parts, (0, 1)))(net(), phi_of())
    gain_by_theta, gain_by_phi = of_gain
    for g in jax.tree.leaves((of_delta, gain_by_theta)):
        assert float(jnp.abs(g).max()) == 0
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(gain_by_phi))


@pytest.mark.parametrize("train, more", [(False, 0), (True, 1)])
def test_a_step_is_one_gradient_and_learning_costs_one_more(train, more):
    def forwards(steps):
        w = np.ones((X[0].size, 37), np.float32)

        ell = without_statistics(lambda theta, x: jnp.sin(x.reshape(len(x), -1) @ w).sum(1))

        def run(x, phi):
            return solve(solver(steps), phi, x=x, ell=ell, train=train)

        hlo = jax.jit(run).lower(X, phi_of()).compile().as_text()
        return len(re.findall(r"\[8,37\]\S* dot\(", hlo))

    assert [forwards(steps) for steps in (1, 3)] == [1 + more, 3 + more]


def test_the_unrolled_loop_is_the_scan(monkeypatch):
    unrolled = learn(solver(), phi_of())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    chex.assert_trees_all_close(unrolled, learn(solver(), phi_of()), rtol=1e-5, atol=1e-7)


def test_remat_changes_nothing_and_keeps_less():
    x, y = images(n=64, size=4, classes=3)
    results, memory = [], []
    for remat in (False, True):
        gradient = functools.partial(learn, solver(8, remat=remat), x=x, y=y)
        compiled = jax.jit(gradient).lower(phi_of()).compile()
        results.append(compiled(phi_of()))
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-7)
    assert memory[1] < 0.7 * memory[0]


def test_a_permutation_of_the_pixels_permutes_delta():
    order = np.random.default_rng(4).permutation(X[0].size)

    def permuted(x):
        return np.asarray(x).reshape(len(x), -1)[:, order].reshape(x.shape)

    ell = without_statistics(lambda theta, x: jnp.sin(7 * x).sum((1, 2, 3)))
    run = jax.jit(lambda x: solve(solver(start="zero"), phi_of(), x=x, ell=ell).delta)
    delta = np.asarray(run(X))
    assert np.abs(delta - permuted(delta)).max() > 1e-3
    np.testing.assert_allclose(run(permuted(X)), permuted(delta), atol=1e-7)


@pytest.mark.parametrize("pre", ["sign_log", "none"])
def test_an_image_does_not_depend_on_the_size_of_its_batch(pre):
    rule, phi = solver(preprocess=pre), phi_of(2 if pre == "sign_log" else 1)
    few = play(rule, phi, x=X[:2], y=Y[:2]).delta
    np.testing.assert_allclose(play(rule, phi).delta[:2], few, atol=1e-6)


@pytest.mark.parametrize(
    "pre, learned_step", [*((pre, True) for pre in PREPROCESS), ("sign_log", False)]
)
def test_delta_stays_in_ball_and_box(pre, learned_step):
    x = X.round()  # every pixel on the box
    rule = solver(5, preprocess=pre, learned_step=learned_step)
    phi = phi_of(2 if pre == "sign_log" else 1, scale=5.0)
    run = jax.jit(lambda eps: solve(rule, phi, x=x, eps=eps).delta)
    delta = run(EPS)
    assert 0.5 * EPS < float(jnp.abs(delta).max()) <= EPS + 1e-8
    assert 0 <= float((x + delta).min()) and float((x + delta).max()) <= 1
    assert float(jnp.abs(run(0.0)).max()) == 0


def test_a_fixed_step_has_the_signs_direction_and_a_finite_derivative_where_there_is_none():
    cell = CoordinateLSTM(4)
    move = make_move(cell, preprocess="sign", learned_step=False)
    q = np.float32([2.0, -1e-3, 0.0, 0.0]).reshape(1, 2, 2, 1)  # no input, no carry: o is 0

    def moved(phi):
        delta, _, out = move(phi, q, cell.zero_carry(q), 0 * q, 0 * q + 0.5, EPS, 0.01)
        return delta.sum(), (delta, out)

    gradient, (delta, out) = jax.jit(jax.grad(moved, has_aux=True))(phi_of(1))
    np.testing.assert_allclose(delta, 0.01 * np.sign(out), atol=1e-8)
    assert delta.ravel()[2:].tolist() == [0, 0] and (jnp.abs(delta.ravel()[:2]) > 0.009).all()
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))


@functools.cache
def trained():
    """phi before and after 100 ascents of gain on one fixed net, with T = 3."""
    tx = optax.adam(0.02)
    before = solver().init(jax.random.key(2), X)[0]

    def ascend(carry, _):
        phi, opt = carry
        down = jax.grad(lambda phi: -solve(solver(), phi, train=True).gain)(phi)
        updates, opt = tx.update(down, opt)
        return (optax.apply_updates(phi, updates), opt), None

    run = jax.jit(lambda phi: jax.lax.scan(ascend, (phi, tx.init(phi)), length=100)[0][0])
    return before, run(before)


def test_a_trained_optimiser_raises_the_loss_and_an_untrained_one_hardly():
    @jax.jit
    def losses(before, after):
        def mean(x):
            return ell_of(Y)(net(), x).mean()

        u = jax.grad(lambda x: ell_of(Y)(net(), x).sum())(X)
        starts = X + STARTS["uniform"](keys(len(X)), X, EPS), X + EPS * jnp.sign(u)
        played = (X + solve(solver(), phi).delta for phi in (before, after))
        return [mean(x) for x in (*starts, *played)]

    start, fgsm, before, after = map(float, losses(*trained()))
    assert after - start > 5 * abs(before - start)
    assert after > fgsm - 0.05 * (fgsm - start)


def test_phi_attacks_a_net_it_has_not_seen_with_more_steps_than_it_was_trained():
    x, y, (before, phi) = X[::-1], (Y[::-1] + 1) % 3, trained()
    f = Partial(lambda theta, x: NET(theta, {}, x, "eval")[0], net(seed=7))
    how = {"eps": EPS, "solver": solver(5), "phi_stats": {}}
    out, untrained = (learned_attack(keys(len(x)), f, x, y, phi=p, **how) for p in (phi, before))
    clean, raised, hardly = (cross_entropy(f(x), y) for x in (x, out, untrained))
    assert bool((raised > clean).all()) and raised.mean() > hardly.mean()
    assert float(jnp.abs(out - x).max()) <= EPS + 1e-6
    delta = play(solver(5), phi, x=x, y=y, theta=net(seed=7)).delta
    np.testing.assert_allclose(out - x, delta, atol=1e-6)
