"""GradAlign's penalty against a plain writing, and what it does and does not differentiate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from games import EPS, SmoothClassifier, images, keys, method_of, seen_by, solve
from l2ljax.apply import functional, initialise
from l2ljax.ball import noise
from l2ljax.losses import ATTACK_LOSSES, adversarial, alignment, cosine, grad_align
from l2ljax.types import Inner, Problem

WEIGHT = 0.7


@pytest.fixture
def game():
    with jax.enable_x64(True):
        x, y = images(n=4, size=4, classes=3, dtype=jnp.float64)
        net = SmoothClassifier()
        theta, _ = initialise(net, jax.random.key(1), x)
        f = functional(net)
        ell = ATTACK_LOSSES["ce"](seen_by(f), theta, {}, x, y)
        inner = Inner(EPS * jnp.sign(jnp.cos(jnp.arange(x.size).reshape(x.shape))))

        def loss(theta, train_loss):
            def with_stats(theta, stats, x, draw=0):
                return f(theta, stats, x, "eval")

            problem = Problem(ell, x, y, EPS, keys(4), train=True)
            value, _, metrics = train_loss(with_stats, problem, theta, {}, inner)
            return value, metrics

        yield theta, x, ell, loss


def test_the_penalty_is_that_of_the_plain_writing(game):
    theta, x, ell, loss = game
    value, metrics = loss(theta, grad_align(WEIGHT, 0.0))
    plain, _ = loss(theta, adversarial(0.0))
    cosines = []
    for i, eta in enumerate(noise(keys(4), x, EPS)):
        u, near = (
            np.ravel(jax.grad(lambda z, i=i: ell(theta, x.at[i].set(z))[i])(point))
            for point in (x[i], x[i] + eta)
        )
        cosines.append(u @ near / np.sqrt((u @ u) * (near @ near)))
    assert float(metrics["theta/alignment"]) == pytest.approx(np.mean(cosines), rel=1e-9)
    assert float(value) == pytest.approx(float(plain) + WEIGHT * (1 - np.mean(cosines)), rel=1e-9)


def test_theta_learns_through_the_gradient_at_the_noise_alone(game):
    """Central differences with u(x) of the unmoved theta, coordinate by coordinate."""
    theta, x, ell, loss = game
    flat, unravel = jax.flatten_util.ravel_pytree(theta)

    def penalty(at, seen):
        u, near = (
            jax.grad(lambda z, t=t: ell(t, z).sum())(point)
            for t, point in ((seen, x), (at, x + noise(keys(4), x, EPS)))
        )
        return WEIGHT * (1 - cosine(u, near).mean())

    def slope(which):
        total = jax.grad(lambda t: loss(t, which)[0])(theta)
        return jax.flatten_util.ravel_pytree(total)[0]

    ours = slope(grad_align(WEIGHT, 0.0)) - slope(adversarial(0.0))
    step = 1e-6 * jnp.eye(len(flat))
    differences = jax.vmap(
        lambda e: (penalty(unravel(flat + e), theta) - penalty(unravel(flat - e), theta)) / 2e-6
    )(step)
    np.testing.assert_allclose(ours, differences, atol=1e-7)
    assert np.abs(ours).max() > 1e-4


def test_without_weight_it_is_fgsm_training(game):
    theta, _, _, loss = game
    assert float(loss(theta, grad_align(0.0, 0.0))[0]) == float(loss(theta, adversarial(0.0))[0])
    x, y = images(classes=3)
    net = SmoothClassifier()
    weights, _ = initialise(net, jax.random.key(1), x)
    f = functional(net)
    deltas = []
    for name in ("grad_align", "fgsm"):
        method = method_of(name)
        ell = method.attack_loss(seen_by(f), weights, {}, x, y)
        deltas.append(np.asarray(solve(method.solver, ell, x, y, weights).delta))
    np.testing.assert_array_equal(*deltas)


def test_images_without_a_gradient_are_left_out_and_tiny_ones_are_not():
    u = jnp.array([[1.0, 0.0], [0.0, 0.0], [1e-30, 1e-30], [2.0, 2.0]]).reshape(4, 1, 2, 1)
    near = jnp.array([[0.0, 1.0], [1.0, 1.0], [1e-30, 1e-30], [-1.0, -1.0]]).reshape(4, 1, 2, 1)
    assert float(alignment(u, near)) == pytest.approx((0 + 1 - 1) / 3)
    assert float(alignment(0 * u, near)) == 1.0
    for where in (u, 0 * u):
        slope = jax.grad(lambda v, w=where: alignment(w, v))(near)
        assert bool(jnp.isfinite(slope).all())
