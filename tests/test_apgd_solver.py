"""Auto-PGD as an inner problem, against a NumPy loop, the attack, and PGM with as many steps."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from games import EPS, SmoothClassifier, images, keys, seen
from games import solve as solve_once
from l2ljax import attacks
from l2ljax.apply import functional, initialise
from l2ljax.ball import STARTS
from l2ljax.losses import ATTACK_LOSSES, cross_entropy
from l2ljax.solvers import apgd, pgm
from l2ljax.types import without_statistics

F = functional(SmoothClassifier())


def logits(theta, x):
    return F(theta, {}, x, "eval")[0]


@functools.cache
def game(n=16, epochs=200):
    """A net that has learned random images by heart, so that its losses are curved; in float64."""
    x, y = images(n=n, size=4, classes=3, dtype=jnp.float64)
    x = x.at[0, 0].set(0.0).at[1, 0].set(1.0)
    theta, _ = initialise(SmoothClassifier(), jax.random.key(1), x)
    theta = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), theta)
    tx = optax.adam(0.03)

    def step(carry, _):
        theta, opt = carry
        g = jax.grad(lambda theta: cross_entropy(logits(theta, x), y).mean())(theta)
        updates, opt = tx.update(g, opt)
        return (optax.apply_updates(theta, updates), opt), None

    (theta, _), _ = jax.lax.scan(step, (theta, tx.init(theta)), length=epochs)
    return theta, ATTACK_LOSSES["ce"](seen(logits), theta, {}, x, y), x, y


as_a_user_has_it = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
"""Not as conftest.py has it: rounding decides the sign of a gradient near zero."""


def solve(solver, theta, ell, x, y, eps=EPS, rng=None):
    rng = keys(len(x)) if rng is None else rng

    @as_a_user_has_it
    def delta(theta, eps):
        return solve_once(solver, ell, x, y, theta, eps=eps, keys=rng).delta

    return delta(theta, eps)


def by_hand(look, x, start, steps):
    """The delta of highest loss of every image, with the whole table of losses kept."""

    def inside(d):
        return np.clip(x + np.clip(d, -EPS, EPS), 0, 1) - x

    n = len(x)
    previous = point = inside(start)
    value, u = look(point)
    best, best_value, best_u = point.copy(), value.copy(), u.copy()
    step, table = np.full(n, 2 * EPS), [np.zeros(n)]
    halved, at_check = np.ones(n, bool), best_value.copy()
    window = max(int(0.22 * steps), 1)
    left = window
    for k in range(steps):
        z = inside(point + step[:, None, None, None] * np.sign(u))
        new = z if k == 0 else inside(point + 0.75 * (z - point) + 0.25 * (point - previous))
        previous, point = point, new
        value, u = look(point)
        table.append(value)
        for b in np.flatnonzero(value > best_value):
            best[b], best_value[b], best_u[b] = point[b], value[b], u[b]
        left -= 1
        if left == 0:
            point, u = point.copy(), u.copy()
            rises = np.sum([table[k + 1 - j] > table[k - j] for j in range(window)], axis=0)
            for b in range(n):
                stuck = not halved[b] and best_value[b] <= at_check[b]
                halved[b] = rises[b] <= 0.75 * window or stuck
                if halved[b]:
                    step[b], point[b], u[b] = step[b] / 2, best[b], best_u[b]
            at_check = best_value.copy()
            window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
            left = window
    return best


@pytest.mark.parametrize(
    "steps, start", [(1, "uniform"), (2, "zero"), (10, "zero"), (10, "uniform"), (20, "zero")]
)
def test_it_equals_the_loop_written_out(steps, start):
    with jax.enable_x64(True):
        theta, ell, x, y = game()

        @as_a_user_has_it
        def look(d):
            return ell(theta, x + d), jax.grad(lambda z: ell(theta, z).sum())(x + d)

        def numbers(d):
            return tuple(np.array(a) for a in look(jnp.asarray(d)))

        draw = as_a_user_has_it(lambda x: STARTS[start](keys(len(x)), x, EPS))
        begin = np.asarray(draw(x))
        expected = by_hand(numbers, np.asarray(x), begin, steps)
        ours = solve(apgd(steps, start), theta, ell, x, y)
        np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_it_equals_the_attack_where_no_image_falls():
    with jax.enable_x64(True):
        theta, ell, x, y = game()
        eps = 0.02
        start = STARTS["uniform"](keys(len(x)), x, eps)
        ours = solve(apgd(10, "uniform"), theta, ell, x, y, eps)
        stands = np.asarray(logits(theta, x + ours).argmax(-1) == y)
        assert stands.sum() > 8
        f, settings = Partial(logits, theta), {"eps": eps, "steps": 10, "loss": "ce"}
        theirs = attacks.apgd(jax.random.key(0), f, x, y, start=start, **settings) - x
        np.testing.assert_allclose(ours[stands], theirs[stands], atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_no_image_ends_below_its_start_and_all_stay_in_ball_and_box(steps):
    with jax.enable_x64(True):
        theta, ell, x, y = game()
        start = STARTS["uniform"](keys(len(x)), x, EPS)
        delta = solve(apgd(steps, "uniform"), theta, ell, x, y)
        assert bool((ell(theta, x + delta) >= ell(theta, x + start) - 1e-12).all())
        assert (ell(theta, x + delta) > ell(theta, x + start)).mean() > 0.5
        assert float(jnp.abs(delta).max()) <= EPS
        assert 0 <= float((x + delta).min()) and float((x + delta).max()) <= 1
        assert float(jnp.abs(solve(apgd(steps, "uniform"), theta, ell, x, y, 0.0)).max()) == 0


def test_it_climbs_higher_than_pgm_with_as_many_steps():
    with jax.enable_x64(True):
        theta, ell, x, y = game()
        ours = solve(apgd(10, "uniform"), theta, ell, x, y)
        theirs = solve(pgm(10, EPS / 4, "uniform"), theta, ell, x, y)
        assert float(ell(theta, x + ours).mean()) > 0.05 + float(ell(theta, x + theirs).mean())


def test_an_image_gets_what_it_gets_alone():
    with jax.enable_x64(True):
        theta, ell, x, y = game()
        together, one = solve(apgd(5, "uniform"), theta, ell, x, y), slice(6, 7)
        ell, rng = ATTACK_LOSSES["ce"](seen(logits), theta, {}, x[one], y[one]), keys(len(x))[one]
        alone = solve(apgd(5, "uniform"), theta, ell, x[one], y[one], rng=rng)
        np.testing.assert_allclose(alone, together[one], atol=1e-9)


@pytest.mark.parametrize("steps", [1, 3])
def test_so_many_steps_cost_so_many_gradients_and_one_loss(steps):
    passes = []

    @jax.custom_vjp
    def seen(x):
        return x

    def forth(x):
        jax.debug.callback(lambda: passes.append("with gradient"))
        return x, None

    def back(_, g):
        jax.debug.callback(lambda: passes.append("gradient"))
        return (g,)

    seen.defvjp(forth, back)
    x, y = images(n=4, size=4, classes=3)
    theta, _ = initialise(SmoothClassifier(), jax.random.key(1), x)

    @without_statistics
    def ell(theta, x):
        jax.debug.callback(lambda: passes.append("loss"))
        return cross_entropy(logits(theta, seen(x)), y)

    solve(apgd(steps, "zero"), theta, ell, x, y).block_until_ready()
    jax.effects_barrier()
    assert passes.count("gradient") == passes.count("with gradient") == steps
    assert passes.count("loss") == steps + 1
