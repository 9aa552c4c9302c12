"""L2L on adversarial interpolation against a plain writing of the authors' loss."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.lax import stop_gradient

from games import EPS, images, keys, seen
from games import SmoothAttacker as Attacker
from l2ljax.apply import functional, initialise
from l2ljax.attacker_input import image_and_gradient
from l2ljax.bilevel import init_state, make_step
from l2ljax.devices import AXIS
from l2ljax.losses import cross_entropy
from l2ljax.solvers.networks import (
    interp,
    interpolated,
    interpolated_labels,
    partner,
    toward_partner,
)
from l2ljax.types import Inner, Method, Problem

A = image_and_gradient("batch_max")
EPS_Y, CLASSES = 0.3, 4


class SmoothFeatures(nn.Module):
    """Two layers and tanh, in the package's form: the features are the hidden layer."""

    @nn.compact
    def __call__(self, x, features=False):
        x = x.reshape(len(x), -1)
        h = nn.tanh(nn.Dense(6, param_dtype=x.dtype, name="hidden")(x))
        return h if features else nn.Dense(CLASSES, param_dtype=x.dtype, name="head")(h)


def f(theta, x, **ask):
    return functional(SmoothFeatures())(theta, {}, x, "eval", **ask)[0]


def with_stats(theta, stats, x):
    return f(theta, x), stats


def a_problem(x, y):
    """What a training loss sees of a problem that is solved."""
    return Problem(None, x, y, EPS, None, train=True)


class Game:
    """Smooth nets, and images of which some pixels lie on the box; `J` is the step's."""

    def __init__(self, steps, dtype=jnp.float32, attacker=None):
        x, self.y = images(4, 4, classes=CLASSES, dtype=dtype)
        self.x = (np.round(10 * np.asarray(x)) - 3).clip(0, 4) / 4
        self.steps, self.keys = steps, keys(4)
        self.solver = interp(attacker or Attacker(), A, steps=steps)
        self.theta = initialise(SmoothFeatures(), jax.random.key(1), self.x)[0]
        self.phi, self.phi_stats = self.solver.init(jax.random.key(2), self.x)
        draw = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], dtype, -EPS, EPS))
        self.x_init = self.x + draw(self.keys)

    @partial(jax.jit, static_argnums=(0, 4))
    def solve(self, theta, phi, eps=EPS, train=True):
        ell = toward_partner(seen(f), theta, {}, self.x, self.y)
        problem = Problem(ell, self.x, self.y, eps, self.keys, train)
        return self.solver.solve(problem, theta, phi, self.phi_stats)

    def J(self, theta, phi):
        inner = self.solve(theta, phi)
        problem = a_problem(self.x, self.y)
        loss = interpolated(EPS_Y, 0.0)(with_stats, problem, theta, {}, inner)[0]
        return loss + inner.gain - stop_gradient(inner.gain), inner


def features(theta, z):
    return jnp.tanh(z.reshape(len(z), -1) @ theta["hidden"]["kernel"] + theta["hidden"]["bias"])


def u_hat(theta, z, c):
    """The gradient of L = 1 - cos(feature(z), c) by hand, over its largest entry."""
    h, length = features(theta, z), jnp.linalg.norm
    a, b = h / length(h, axis=1)[:, None], c / length(c, axis=1)[:, None]
    slope = ((a * b).sum(1)[:, None] * a - b) / length(h, axis=1)[:, None]
    u = ((1 - h**2) * slope @ theta["hidden"]["kernel"].T).reshape(z.shape)
    return u / jnp.abs(u).max()


def plain(game, phi, us=None):
    """x~, the gradients, what g gave last and mean L, in images rather than in deltas.

    us fixes the gradients.
    """
    theta, x, z = game.theta, game.x, game.x_init
    c = features(theta, x[::-1])
    us = [None] * game.steps if us is None else list(us)
    out = z
    for t in range(game.steps):
        us[t] = u_hat(theta, z, c) if us[t] is None else us[t]
        out = functional(Attacker())(phi, {}, jnp.concatenate([z, us[t]], -1), "eval")[0]
        z = jnp.clip(z + EPS * out, 0, 1)
    z = jnp.clip(jnp.clip(z, x - EPS, x + EPS), 0, 1)
    h, length = features(theta, z), jnp.linalg.norm
    cos = (h * c).sum(1) / length(h, axis=1) / length(c, axis=1)
    return z, us, out, jnp.maximum(0, 1 - cos).mean()


def plain_labels(y, eps_y):
    """Entry by entry."""
    soft = np.zeros((len(y), CLASSES))
    for i, (label, other) in enumerate(zip(y, y[::-1], strict=True)):
        for k in range(CLASSES):
            soft[i, k] = (1 - eps_y) * (k == label) + eps_y * (k != other) / (CLASSES - 1)
    return soft


@pytest.fixture(scope="module", params=[1, 2])
def played(request):
    """In float64: the game, (J, inner), the two gradients, and the plain writing."""
    with jax.enable_x64(True):
        game = Game(request.param, dtype=jnp.float64)
        J = jax.jit(jax.value_and_grad(game.J, (0, 1), has_aux=True))
        return game, *J(game.theta, game.phi), jax.jit(partial(plain, game))(game.phi)


def test_image_and_gain_are_those_of_the_plain_writing(played):
    game, (_, inner), _, (z, _, out, distance) = played
    with jax.enable_x64(True):
        np.testing.assert_allclose(game.x + inner.delta, z, atol=1e-12)
        np.testing.assert_allclose(inner.aux["tanh"], out, atol=1e-12)
        np.testing.assert_allclose(inner.gain, -distance, atol=1e-12)
        # What the attacker saw first was not cut to the box, what came out was.
        assert game.x_init.min() < -0.01 and game.x_init.max() > 1.01
        assert z.min() == 0 and z.max() <= 1 and distance > 1e-3


def test_phi_climbs_minus_L_by_finite_differences_at_fixed_u(played):
    """With two steps also through the image that the second call sees."""
    game, _, (_, d_phi), (_, us, _, _) = played
    h = 1e-6
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(game.phi)

        def climbed(v):
            return -plain(game, unravel(v), us)[3]

        slopes = jax.vmap(lambda e: (climbed(flat + h * e) - climbed(flat - h * e)) / (2 * h))
        ours = ravel_pytree(d_phi)[0]
        np.testing.assert_allclose(ours, jax.jit(slopes)(jnp.eye(len(flat))), atol=1e-8)
        assert jnp.abs(ours).max() > 1e-4


def test_theta_descends_the_soft_cross_entropy_of_a_constant_image(played):
    game, (loss, _), (d_theta, _), (z, _, _, _) = played
    with jax.enable_x64(True):
        soft = plain_labels(np.asarray(game.y), EPS_Y)

        def on_constants(theta):
            logits = features(theta, z) @ theta["head"]["kernel"] + theta["head"]["bias"]
            return -(soft * jax.nn.log_softmax(logits)).sum(1).mean()

        value, expected = jax.jit(jax.value_and_grad(on_constants))(game.theta)
        np.testing.assert_allclose(loss, value, atol=1e-12)
        np.testing.assert_allclose(ravel_pytree(d_theta)[0], ravel_pytree(expected)[0], atol=1e-12)


@pytest.fixture(scope="module")
def game():
    return Game(2)


def test_delta_carries_no_gradient_to_either_player_and_gain_none_to_theta(game):
    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def slope(theta, phi, of_delta, of_gain):
        inner = game.solve(theta, phi)
        return of_delta * (inner.delta * game.x).sum() + of_gain * inner.gain

    def largest(*weights):
        slopes = slope(game.theta, game.phi, *weights)
        return [max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(d)) for d in slopes]

    assert largest(1.0, 0.0) == [0, 0]
    assert largest(0.0, 1.0)[0] == 0 < largest(0.0, 1.0)[1]


@pytest.mark.parametrize("eps", [EPS, 0.0])
def test_delta_stays_in_ball_and_box_and_is_zero_for_zero_eps(game, eps):
    delta = game.solve(game.theta, game.phi, eps).delta
    assert float(jnp.abs(delta).max()) <= eps + 1e-8
    assert float((game.x + delta).min()) >= 0 and float((game.x + delta).max()) <= 1
    assert bool(delta.any()) == (eps > 0)


class Normalised(nn.Module):
    """An attacker with statistics."""

    @nn.compact
    def __call__(self, a, train):
        return nn.tanh(nn.BatchNorm(not train)(a)[..., :1])


def test_only_in_training_the_statistics_move_and_there_is_a_gain():
    game = Game(1, attacker=Normalised())
    still, moved = (game.solve(game.theta, game.phi, EPS, train) for train in (False, True))
    before, frozen, after = (
        ravel_pytree(s)[0] for s in (game.phi_stats, still.phi_stats, moved.phi_stats)
    )
    np.testing.assert_array_equal(before, frozen)
    assert bool((before != after).any())
    assert still.gain == 0 > moved.gain


def test_a_hundred_steps_of_phi_lower_the_distance_to_the_partners_features(game):
    method = Method(game.solver, toward_partner, interpolated(EPS_Y, 0.0), learns=True)
    still, adam, net = optax.set_to_zero(), optax.adam(1e-2), functional(SmoothFeatures())
    state = init_state(jax.random.key(2), game.theta, {}, method, still, adam, game.x)
    step = jax.jit(make_step(net, method, still, adam, eps=EPS, craft_bn="eval"))
    before = -game.solve(game.theta, state.phi).gain
    for _ in range(100):
        state, _ = step(state, (game.x, game.y), jax.random.key(0))
    after = -game.solve(game.theta, state.phi).gain
    assert after < 0.9 * before


def test_soft_labels_by_hand():
    soft = interpolated_labels(jnp.array([0, 1, 2]), 4, 0.3)
    expected = [[0.8, 0.1, 0.0, 0.1], [0.1, 0.7, 0.1, 0.1], [0.0, 0.1, 0.8, 0.1]]
    np.testing.assert_allclose(soft, expected, atol=1e-6)


@pytest.mark.parametrize("eps_y", [0.0, 0.5, 0.9, 1.0])
def test_soft_labels_are_distributions(eps_y):
    y = jax.random.randint(jax.random.key(0), (16,), 0, CLASSES)
    soft = interpolated_labels(y, CLASSES, eps_y)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
    assert float(soft.min()) >= 0
    np.testing.assert_allclose(soft, plain_labels(np.asarray(y), eps_y), atol=1e-6)


def test_zero_eps_y_is_the_cross_entropy_of_the_hard_label(game):
    @jax.jit
    def losses(delta):
        given = a_problem(game.x, game.y), game.theta, {}, Inner(delta)
        loss, _, metrics = interpolated(0.0, 0.0)(with_stats, *given)
        logits = f(game.theta, game.x + delta)
        accuracy = (logits.argmax(1) == game.y).mean()
        hard = cross_entropy(logits, game.y).mean()
        return (loss, metrics["theta/robust_accuracy"]), (hard, accuracy)

    np.testing.assert_allclose(*losses(EPS * game.x), rtol=1e-6)


def test_accuracy_is_against_the_hard_label_also_where_the_soft_one_has_its_top_elsewhere():
    x, y = np.zeros((2, 1, 1, 1), np.float32), np.array([1, 1])  # partners of one class

    @jax.jit
    def accuracy_and_top():
        def sure(theta, stats, x):
            return 9 * jax.nn.one_hot(y, 3), stats

        metrics = interpolated(0.9, 0.0)(sure, a_problem(x, y), {}, {}, Inner(x))[2]
        return metrics["theta/robust_accuracy"], interpolated_labels(y, 3, 0.9).argmax(1)

    accuracy, top = accuracy_and_top()
    assert accuracy == 1 and not (top == y).any()


def test_the_image_moves_towards_the_one_whose_label_it_leaves_out(game):
    @jax.jit
    def at_every_image(x):
        """ell of every image (columns) if it were moved to each of the images (rows)."""
        ell = toward_partner(seen(f), game.theta, {}, x, game.y)
        return jax.vmap(lambda z: ell(game.theta, jnp.stack([z] * len(x))))(x)

    table, x = np.asarray(at_every_image(game.x)), np.asarray(game.x)
    soft = np.asarray(interpolated_labels(game.y, CLASSES, 0.5))
    goal = table.argmax(0)
    assert np.abs(table[goal, np.arange(4)]).max() < 1e-6
    assert table.min() < -1e-3
    assert not soft[np.arange(4), np.asarray(game.y)[goal]].any()
    np.testing.assert_array_equal(partner(x), x[goal])


def test_pairs_reach_over_all_devices(game):
    def both(x, y):
        ell = toward_partner(seen(f), game.theta, {}, x, y)
        return ell(game.theta, x), interpolated_labels(y, CLASSES, 0.5)

    cut = [v.reshape(2, 2, *v.shape[1:]) for v in (game.x, game.y)]
    split = jax.jit(jax.vmap(both, axis_name=AXIS))(*cut)
    whole = jax.jit(both)(game.x, game.y)
    for part, one in zip(split, whole, strict=True):
        np.testing.assert_allclose(part.reshape(one.shape), one, atol=1e-6)


def shifted(theta, x, **ask):
    return x.reshape(len(x), -1) + theta


def test_zero_features_have_a_distance_of_one_and_a_finite_slope():
    x = jnp.array([[1, 0], [0, 0], [3, 4], [2, 0]], jnp.float32).reshape(4, 1, 2, 1)
    z = jnp.array([[0, 5], [0, 1], [1, 1], [0, 0]], jnp.float32).reshape(4, 1, 2, 1)

    @jax.jit
    def climbed(z):
        values = toward_partner(seen(shifted), 0.0, {}, x, x)(0.0, z)
        return values.sum(), values

    (_, values), slope = jax.value_and_grad(climbed, has_aux=True)(z)
    np.testing.assert_allclose(values, [-1, -0.2, -1, -1], atol=1e-6)
    assert np.isfinite(slope).all()


def test_opposite_features_have_a_distance_of_two_and_the_partners_are_constants():
    x = jnp.array([[1.0, 2.0], [-1.0, -2.0]]).reshape(2, 1, 2, 1)

    @jax.jit
    def total(theta, own):
        return toward_partner(seen(shifted), theta, {}, x, x)(own, x).sum()

    np.testing.assert_allclose(total(0.0, 0.0), -4, rtol=1e-6)
    through_c, through_z = jax.grad(total, (0, 1))(0.1, 0.1)
    assert through_c == 0 != through_z
