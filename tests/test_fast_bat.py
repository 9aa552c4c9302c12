"""Fast-BAT against central differences, the total derivative, and its eight steps written out."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from games import EPS, SmoothClassifier, images, keys, seen_by, solve
from l2ljax.apply import functional, initialise
from l2ljax.ball import uniform
from l2ljax.bilevel import init_state, make_step
from l2ljax.losses import ATTACK_LOSSES, adversarial, cross_entropy
from l2ljax.solvers.implicit import POINTS, fast_bat
from l2ljax.types import Method

N = 4
STEP, LAM = 0.08, 10.0

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""A jit that spends its time on the answer: these programs run once."""


def game():
    """A smooth net; pixels on the box and just inside it. In float64 where that is on."""
    return _game(jnp.result_type(float))


@functools.cache
def _game(dtype):
    x, y = images(n=N, size=4, classes=3, dtype=dtype)
    x = x.at[0, 0].set(0.0).at[1, 0].set(1.0).at[2, :2].set(0.99).at[3, :2].set(0.01)
    net = SmoothClassifier()
    theta = jax.tree.map(lambda w: 3 * w, initialise(net, jax.random.key(1), x)[0])
    return functional(net), theta, x, y


def perturbation(solver, f, theta, x, y, eps=EPS):
    ell = ATTACK_LOSSES["ce"](seen_by(f, "batch"), theta, {}, x, y)
    return solve(solver, ell, x, y, theta, eps=eps).delta


def through(point, f, theta, x, y, mixed_at="z"):
    """lam -> theta's gradient of mean CE(x + delta(theta)) and delta, compiled once for all lam."""

    def loss(theta, lam):
        delta = perturbation(fast_bat(point, STEP, lam, mixed_at), f, theta, x, y)
        return summed(f, x, y)(theta, delta) / len(x), delta

    slope = quick(jax.grad(loss, has_aux=True))
    return lambda lam: slope(theta, jnp.asarray(lam, x.dtype))


def moved(solver, f, theta, x, y):
    """The gradient that a whole step of plain SGD has used; its randomness is keys(N)."""

    def with_keys(problem, *players):
        return solver.solve(problem._replace(keys=keys(N)), *players)

    pinned, sgd = solver._replace(solve=with_keys), optax.sgd(0.1)
    method = Method(pinned, ATTACK_LOSSES["ce"], adversarial(0.0))
    state = init_state(jax.random.key(2), theta, {}, method, sgd, sgd, x)
    after, _ = quick(make_step(f, method, sgd, sgd, eps=EPS))(state, (x, y), jax.random.key(0))
    return jax.tree.map(lambda a, b: (a - b) / 0.1, theta, after.theta)


def summed(f, x, y):
    """CE summed over the batch, of theta and of a perturbation."""
    return lambda theta, d: cross_entropy(f(theta, {}, x + d, "eval")[0], y).sum()


def inside(x, d):
    return jnp.clip(x + jnp.clip(d, -EPS, EPS), 0, 1) - x


def point(name, c, theta, x):
    """z, as the authors' code computes each choice."""
    u, zero, noise = jax.grad(c, 1), jnp.zeros_like(x), uniform(keys(len(x)), x, EPS)
    return {
        "random": lambda: noise,
        "fgsm": lambda: inside(x, EPS * jnp.sign(u(theta, zero))),
        "pgd": lambda: inside(x, noise + 1.25 * EPS * jnp.sign(u(theta, noise))),
        "ns_pgd": lambda: inside(x, noise + STEP * u(theta, noise)),
        "ns_gd": lambda: noise + STEP * u(theta, noise),
        "ns_pgd_zero": lambda: inside(x, STEP * u(theta, zero)),
    }[name]()


def by_hand(c, theta, x, z, lam, mixed_at="z"):
    """The authors' loop, step by step: delta, v and both terms of the gradient."""
    r = -jax.grad(c, 1)(theta, z)
    delta = inside(x, z - STEP * r)
    low, high = jnp.maximum(-x, -EPS), jnp.minimum(1 - x, EPS)
    H = (low + 1e-7 < delta) & (delta < high - 1e-7)
    v = H * jax.grad(c, 1)(theta, delta) / lam
    at = z if mixed_at == "z" else delta

    def along_v(theta):
        return jax.jvp(lambda d: c(theta, d), (at,), (v,))[1] / len(x)

    direct = jax.grad(lambda theta: c(theta, delta) / len(x))(theta)
    return delta, v, direct, jax.grad(along_v)(theta)


def minus(a, b):
    return jax.tree.map(jnp.subtract, a, b)


def largest(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name, mixed_at", [*((name, "z") for name in POINTS), ("random", "delta")])
def test_delta_and_gradient_are_those_of_the_authors_eight_steps(name, mixed_at):
    with jax.enable_x64(True):
        f, theta, x, y = game()
        c = summed(f, x, y)

        @quick
        def expected(theta):
            return by_hand(c, theta, x, point(name, c, theta, x), LAM, mixed_at)

        delta, _, direct, cross = expected(theta)
        ours, our_delta = through(name, f, theta, x, y, mixed_at)(LAM)
        np.testing.assert_allclose(our_delta, delta, atol=1e-12)
        assert largest(cross) > 1e-3
        chex.assert_trees_all_close(minus(ours, direct), cross, atol=1e-10)


@pytest.mark.parametrize("name", ["random", "ns_pgd", "ns_gd"])
def test_a_whole_step_is_the_total_derivative_with_z_frozen(name):
    with jax.enable_x64(True):
        f, theta, x, y = game()
        c = summed(f, x, y)
        z = point(name, c, theta, x)
        flat, unravel = ravel_pytree(theta)

        def outer(flat):
            theta = unravel(flat)
            return c(theta, inside(x, z + STEP * jax.grad(c, 1)(theta, z))) / len(x)

        @quick
        @jax.vmap
        def slope(e):
            return (outer(flat + 1e-6 * e) - outer(flat - 1e-6 * e)) / 2e-6

        ours = moved(fast_bat(name, STEP, 1 / STEP, "z"), f, theta, x, y)
        ours = ravel_pytree(ours)[0]
        np.testing.assert_allclose(ours, slope(jnp.eye(len(flat))), atol=2e-8)


def test_the_cross_term_matches_central_differences():
    with jax.enable_x64(True):
        f, theta, x, y = game()
        c = summed(f, x, y)
        z = point("ns_pgd", c, theta, x)
        _, v, direct, _ = quick(lambda theta: by_hand(c, theta, x, z, LAM))(theta)
        assert 0.1 < float((v != 0).mean()) < 0.9, "coordinates at bounds and inside them"
        h = 1e-4 / float(jnp.abs(v).max())
        slope = quick(jax.grad(c))
        expected = minus(slope(theta, z + h * v), slope(theta, z - h * v))
        expected = jax.tree.map(lambda g: g / (2 * h * len(x)), expected)
        ours = minus(through("ns_pgd", f, theta, x, y)(LAM)[0], direct)
        chex.assert_trees_all_close(ours, expected, atol=1e-8)
        assert largest(expected) > 1e-3


def test_the_mask_is_zero_at_the_bound_of_the_ball_and_of_the_box():
    """d delta / d theta is d q / d theta over lam inside, and 0 at each of the four bounds."""
    with jax.enable_x64(True):
        f, theta, x, y = game()
        solver, c = fast_bat("ns_pgd_zero", STEP, LAM, "z"), summed(f, x, y)
        z = point("ns_pgd_zero", c, theta, x)
        delta = perturbation(solver, f, theta, x, y)
        flat, unravel = ravel_pytree(theta)

        def rows(g):
            jacobian = quick(jax.jacrev(lambda flat: g(unravel(flat))))(flat)
            return np.asarray(jacobian).reshape(x.size, len(flat))

        ours = rows(lambda theta: perturbation(solver, f, theta, x, y))
        of_q = rows(lambda theta: jax.grad(c, 1)(theta, z))
        bounds = [(delta == EPS), (delta == -EPS), (delta == -x), (delta == 1 - x)]
        assert all(int(bound.sum()) > 1 for bound in bounds), "a bound that nothing touches"
        pinned = np.asarray(sum(bounds) > 0).ravel()
        assert (~pinned).sum() > 10
        assert (ours[pinned] == 0).all()
        np.testing.assert_allclose(ours[~pinned], of_q[~pinned] / LAM, atol=1e-12)
        assert (np.abs(of_q).max(1) > 1e-3).all(), "no row is 0 of itself"


def test_a_large_lambda_is_training_on_a_constant_delta_and_the_cross_term_goes_with_1_over_it():
    """The step has a number of its own: delta is the same for every lambda."""
    with jax.enable_x64(True):
        f, theta, x, y = game()
        c, of = summed(f, x, y), through("ns_pgd", f, theta, x, y)
        (one, delta), (ten, same), (none, too) = of(1.0), of(10.0), of(1e12)
        np.testing.assert_array_equal(delta, same)
        np.testing.assert_array_equal(delta, too)
        direct = quick(jax.grad(lambda theta: c(theta, delta) / len(x)))(theta)
        chex.assert_trees_all_close(none, direct, atol=1e-10)
        one, ten = minus(one, direct), minus(ten, direct)
        chex.assert_trees_all_close(one, jax.tree.map(lambda g: 10 * g, ten), atol=1e-9)
        assert largest(one) > 1e-2


def test_the_mixed_derivative_at_delta_is_another_gradient_for_the_same_delta():
    with jax.enable_x64(True):
        f, theta, x, y = game()
        at = [through("ns_pgd", f, theta, x, y, mixed_at)(LAM) for mixed_at in ("z", "delta")]
        (at_z, delta), (at_delta, same) = at
        np.testing.assert_allclose(delta, same, rtol=0, atol=1e-12)
        assert largest(minus(at_z, at_delta)) > 1e-4


@pytest.mark.parametrize("name", ["ns_pgd", "ns_gd"])
def test_delta_climbs_and_is_in_ball_and_box_also_where_z_is_not(name):
    f, theta, x, y = game()
    c, solver = summed(f, x, y), fast_bat(name, STEP, LAM, "z")
    delta = perturbation(solver, f, theta, x, y)
    assert 0.5 * EPS < float(jnp.abs(delta).max()) <= EPS + 1e-8
    assert 0 <= float((x + delta).min()) and float((x + delta).max()) <= 1
    z = point(name, c, theta, x)
    assert (float(jnp.abs(z).max()) > 1.2 * EPS) == (not POINTS[name].projected)
    assert c(theta, delta) > c(theta, uniform(keys(N), x, EPS)) + 0.1
    assert float(jnp.abs(perturbation(solver, f, theta, x, y, 0.0)).max()) == 0


class Normalised(nn.Module):
    """With BatchNorm between two layers."""

    @nn.compact
    def __call__(self, x, train=True):
        kinds = {"param_dtype": x.dtype}
        h = nn.Conv(3, (3, 3), **kinds)(x)
        h = nn.tanh(nn.BatchNorm(use_running_average=not train, **kinds)(h))
        return nn.Dense(3, **kinds)(h.reshape(len(x), -1))


def test_the_cross_term_has_the_path_through_the_batch_statistics():
    """Every pass in batch mode: q depends on theta through the images' mates too."""
    with jax.enable_x64(True):
        _, _, x, y = game()
        whole = functional(Normalised())
        theta, stats = initialise(Normalised(), jax.random.key(1), x)

        def f(theta, _, x, mode):
            return whole(theta, stats, x, "batch")

        z = uniform(keys(N), x, EPS)
        _, _, direct, cross = quick(lambda theta: by_hand(summed(f, x, y), theta, x, z, LAM))(theta)
        ours, _ = through("random", f, theta, x, y)(LAM)
        chex.assert_trees_all_close(minus(ours, direct), cross, atol=1e-10)
        assert largest(cross) > 1e-4


def test_an_unknown_point_names_the_nearest():
    with pytest.raises(ValueError, match="unknown linearisation point 'ns-pgd': did you mean"):
        fast_bat("ns-pgd", STEP, LAM, "z")
    with pytest.raises(ValueError, match="did you mean 'delta'"):
        fast_bat("ns_pgd", STEP, LAM, "delta*")
