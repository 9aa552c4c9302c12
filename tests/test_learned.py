"""A trained phi as an attack: what its solver does, on any model, for every image alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from games import EPS, SmoothAttacker, SmoothClassifier, images, keys, method_of, solve
from l2ljax.apply import functional, initialise
from l2ljax.attacks.learned import gradient_scale, learned_attack
from l2ljax.ball import per_image
from l2ljax.losses import cross_entropy, plain_ell
from l2ljax.methods import METHODS
from l2ljax.models import make_attacker
from l2ljax.types import Inner, Solver, no_phi

KEY = jax.random.key(5)
X, Y = images(classes=3)


def logits(theta, x):
    return functional(SmoothClassifier())(theta, {}, x, "eval")[0]


@functools.cache
def net(seed=1):
    return Partial(logits, initialise(SmoothClassifier(), jax.random.key(seed), X)[0])


@functools.cache
def attacker(name="grad_l2l", grad_norm="per_example_max", seed=2, **changes):
    """The settings of an attack: a solver and a phi that has seen nothing."""
    method = method_of(name, SmoothAttacker(), grad_norm=grad_norm, **changes)
    phi, phi_stats = method.solver.init(jax.random.key(seed), X)
    return {"eps": EPS, "solver": method.solver, "phi": phi, "phi_stats": phi_stats}


def own(a, f, x=X, y=Y, loss="ce"):
    """What the solver itself makes of a whole batch."""
    return _own(f, a["phi"], a["phi_stats"], x, y, a["solver"], loss)


@functools.partial(jax.jit, static_argnums=(5, 6))
def _own(f, phi, phi_stats, x, y, solver, loss):
    ell = plain_ell(loss, f, x, y)
    return x + solve(solver, ell, x, y, None, phi, phi_stats, keys=per_image(KEY, len(x))).delta


ALONE = [name for name in METHODS if not method_of(name).paired]


@pytest.mark.parametrize("name", ALONE)
def test_the_attack_is_what_the_solver_does(name):
    a, f = attacker(name, attacker_start="uniform"), net()
    out = learned_attack(KEY, f, X, Y, **a)
    inside = X + jnp.clip(own(a, f) - X, -EPS, EPS)  # N-FGSM's ball is larger
    np.testing.assert_allclose(out, inside, atol=1e-6)
    assert bool((out != X).any()) == (name != "plain")


def test_an_attacker_with_batchnorm_uses_its_running_statistics():
    g = make_attacker("two_layer", 1, width=1 / 16)
    solver = method_of("grad_l2l", g, grad_norm="per_example_max").solver
    phi, phi_stats = solver.init(KEY, X)
    a = {"eps": EPS, "solver": solver, "phi": phi}
    outs = []
    for shift in (0.0, 1.0):
        a["phi_stats"] = jax.tree.map(lambda s, shift=shift: s + shift, phi_stats)
        outs.append(learned_attack(KEY, net(), X, Y, **a))
        np.testing.assert_allclose(outs[-1], own(a, net()), atol=1e-5)
    assert bool((outs[0] != outs[1]).any())


@pytest.mark.parametrize("loss", ["kl", "margin"])
def test_the_gradient_is_that_of_the_loss_named(loss):
    a, f = attacker(attacker_start="uniform"), net()
    np.testing.assert_allclose(
        learned_attack(KEY, f, X, Y, **a, loss=loss), own(a, f, loss=loss), atol=1e-6
    )


def test_a_batch_maximum_is_every_images_own():
    whole, alone = (attacker(grad_norm=norm) for norm in ("batch_max", "per_example_max"))
    f = net()
    out = learned_attack(KEY, f, X, Y, **whole)
    np.testing.assert_allclose(out, learned_attack(KEY, f, X, Y, **alone), atol=1e-6)
    assert float(jnp.abs(out - own(whole, f)).max()) > 1e-4


@pytest.mark.parametrize("grad_norm", ["batch_max", "none"])
def test_no_image_depends_on_its_batch(grad_norm):
    a, f, order = (
        attacker("grad_l2l", grad_norm, attacker_start="uniform"),
        net(),
        jnp.array([4, 1, 5]),
    )
    together = learned_attack(keys(), f, X, Y, **a)
    fewer = learned_attack(keys()[order], f, X[order], Y[order], **a)
    np.testing.assert_allclose(fewer, together[order], atol=1e-6)
    short = learned_attack(KEY, f, X, Y, **a)
    np.testing.assert_array_equal(short, learned_attack(per_image(KEY, len(X)), f, X, Y, **a))


def test_a_frozen_scale_is_the_batch_maximum_of_one_batch_for_all_others():
    """On the batch it was measured on, phi sees what it saw in training."""
    trained, frozen, f = attacker(grad_norm="batch_max"), attacker(grad_norm="none"), net()
    scale = gradient_scale(f, X, Y)
    np.testing.assert_allclose(
        learned_attack(KEY, f, X, Y, **frozen, scale=scale), own(trained, f), atol=1e-6
    )
    one = learned_attack(KEY, f, X[:1], Y[:1], **frozen, scale=scale)
    np.testing.assert_allclose(one, own(trained, f)[:1], atol=1e-6)
    other = learned_attack(KEY, f, X, Y, **frozen, scale=10 * scale)
    assert float(jnp.abs(other - own(trained, f)).max()) > 1e-4


def test_the_scale_is_the_largest_entry_of_the_input_gradient():
    f = net()
    u = jax.grad(lambda x: cross_entropy(f(x), Y).sum())(X)
    np.testing.assert_allclose(gradient_scale(f, X, Y), jnp.abs(u).max(), rtol=1e-5)
    assert gradient_scale(lambda x: jnp.ones((len(x), 3)), X, Y) == 1, "nothing to divide"


def test_other_models_other_phis_and_other_scales_cost_no_trace():
    traces = []

    def counted(theta, x):
        traces.append(x.shape)
        return logits(theta, x)

    a, outs, counts = attacker(grad_norm="none"), [], []
    phis = [attacker(grad_norm="none", seed=seed)["phi"] for seed in (2, 3, 3, 3)]
    scales = (None, 1.0, 1.0, gradient_scale(net(), X, Y))
    for seed, phi, scale in zip((1, 1, 4, 4), phis, scales, strict=True):
        f = Partial(counted, *net(seed).args)
        outs.append(learned_attack(KEY, f, X, Y, **a | {"phi": phi}, scale=scale))
        counts.append(len(traces))
    assert counts[0] == counts[-1] > 0
    assert all(bool((a != b).any()) for a, b in zip(outs, outs[1:], strict=False))


def test_a_phi_plays_longer_than_it_was_trained():
    f, short = net(), attacker("multistep_l2l", inner_steps=2)
    long = attacker("multistep_l2l", inner_steps=5)
    out = learned_attack(KEY, f, X, Y, **long | {"phi": short["phi"]})
    np.testing.assert_allclose(out, own(long, f), atol=1e-6)
    assert bool((out != learned_attack(KEY, f, X, Y, **short)).any())


def test_a_trained_phi_raises_the_loss_of_models_it_has_never_seen():
    a, f = attacker(), net()

    @jax.jit
    def step(phi, opt):
        def fooled(phi):
            return -cross_entropy(f(own(a | {"phi": phi}, f)), Y).mean()

        updates, opt = tx.update(jax.grad(fooled)(phi), opt)
        return optax.apply_updates(phi, updates), opt

    tx = optax.adam(0.02)
    phi, opt = a["phi"], tx.init(a["phi"])
    for _ in range(60):
        phi, opt = step(phi, opt)
    other, (x, y) = net(seed=7), (X[::-1], (Y[::-1] + 1) % 3)
    out = learned_attack(KEY, other, x, y, **a | {"phi": phi})
    assert bool((cross_entropy(other(out), y) > cross_entropy(other(x), y)).all())
    naive = learned_attack(KEY, other, x, y, **a)
    assert cross_entropy(other(out), y).mean() > cross_entropy(other(naive), y).mean() + 0.01


@pytest.mark.parametrize("classes, n", [(2, 8), (10, 1)])
def test_adversarial_images_stay_in_ball_and_box(classes, n):
    w = jax.random.normal(KEY, (64, classes))
    x, y = X[:n].round(), Y[:n] % classes  # every pixel on the box
    out = learned_attack(KEY, lambda x: x.reshape(len(x), -1) @ w, x, y, **attacker())
    assert 0 <= float(out.min()) and float(out.max()) <= 1
    assert 0 < float(jnp.abs(out - x).max()) <= EPS + 1e-6


def test_a_solver_of_a_larger_ball_is_held_to_this_one():
    def far(problem, theta, phi, phi_stats):
        return Inner(3 * problem.eps * jnp.ones_like(problem.x))

    out = learned_attack(
        KEY, net(), X, Y, eps=EPS, solver=Solver(no_phi, far, 3), phi={}, phi_stats={}
    )
    np.testing.assert_allclose(out, X + EPS, atol=1e-6)


def test_nan_at_one_image_does_not_reach_another():
    f, a, x = net(), attacker(grad_norm="batch_max"), X.at[2, 0, 0, 0].set(1.0)

    def broken(theta, x):
        return logits(theta, x) * jnp.where(x[:, :1, 0, 0] == 1, jnp.nan, 1)

    out, expected = (
        learned_attack(KEY, Partial(broken, *f.args), x, Y, **a),
        learned_attack(KEY, f, x, Y, **a),
    )
    assert bool(jnp.isfinite(out).all())
    np.testing.assert_array_equal(out[2], x[2])
    np.testing.assert_allclose(jnp.delete(out, 2, 0), jnp.delete(expected, 2, 0), atol=1e-6)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"loss": "xent"}, "unknown loss 'xent'"),
        ({"scale": 0.0}, "scale=0.0 must be a number above 0"),
        ({"scale": float("nan")}, "scale=nan must be a number above 0"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(wrong, words):
    with pytest.raises(ValueError, match=words):
        learned_attack(KEY, net(), X, Y, **attacker(), **wrong)
