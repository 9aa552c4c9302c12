import jax
import jax.numpy as jnp
import numpy as np
import pytest

from games import EPS, SmoothClassifier, images, keys, seen_by, solve
from l2ljax.apply import functional, initialise
from l2ljax.losses import ATTACK_LOSSES
from l2ljax.solvers import fgsm, n_fgsm


def game(solver, x, eps=EPS):
    y = jnp.arange(len(x)) % 3
    theta, _ = initialise(SmoothClassifier(), jax.random.key(1), x)
    f = functional(SmoothClassifier())
    ell = ATTACK_LOSSES["ce"](seen_by(f), theta, {}, x, y)

    def delta(theta):
        return solve(solver, ell, x, y, theta, eps=eps).delta

    return theta, ell, delta


def edges():
    """Images of which a third of the pixels lie on the box."""
    return (images()[0] * 3 - 1).clip(0, 1)


@pytest.mark.parametrize("step_size", [0.04, EPS])
def test_it_is_noise_and_one_sign_step_of_the_gradient_there(step_size):
    x = edges()
    theta, ell, delta = game(n_fgsm(2.0, step_size), x)
    draw = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], minval=-1.0, maxval=1.0))
    noisy = jnp.clip(x + 2 * EPS * draw(keys(len(x))), 0, 1)
    u = jax.grad(lambda z: ell(theta, z).sum())(noisy)
    expected = jnp.clip(noisy + step_size * jnp.sign(u), 0, 1) - x
    np.testing.assert_allclose(delta(theta), expected, atol=1e-6)


def test_delta_leaves_the_ball_and_keeps_to_its_own_and_to_the_box():
    x, solver = edges(), n_fgsm(2.0, EPS)
    theta, _, delta = game(solver, x)
    size = float(jnp.abs(delta(theta)).max())
    assert solver.radius == 3
    assert 2.5 * EPS < size <= 3 * EPS + 1e-7
    assert 0 <= float((x + delta(theta)).min()) and float((x + delta(theta)).max()) <= 1
    small = n_fgsm(2.0, 0.04)
    assert float(jnp.abs(game(small, x)[2](theta)).max()) <= 2 * EPS + 0.04 + 1e-7


def test_without_noise_and_with_a_step_of_eps_it_is_fgsm():
    x = edges()
    theta, _, delta = game(n_fgsm(0.0, EPS), x)
    np.testing.assert_array_equal(delta(theta), game(fgsm(), x)[2](theta))


def test_the_step_is_held_to_a_radius_that_is_warmed_up():
    x = edges()
    theta, _, delta = game(n_fgsm(2.0, EPS), x, eps=0.25 * EPS)
    assert 2.5 * 0.25 * EPS < float(jnp.abs(delta(theta)).max()) <= 3 * 0.25 * EPS + 1e-7
    assert float(jnp.abs(game(n_fgsm(2.0, EPS), x, eps=0.0)[2](theta)).max()) == 0
