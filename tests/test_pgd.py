"""PGD against a NumPy loop, and what a user of it relies on: ball, box, keys, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from l2ljax.attacks import fgsm, pgd
from l2ljax.attacks.pgd import LOSSES, _steps
from l2ljax.ball import STARTS, per_image
from l2ljax.losses import cross_entropy, margin

EPS, STEP = 0.1, 0.04
KEY = jax.random.key(5)
ZERO = {"eps": EPS, "steps": 4, "step_size": STEP, "start": "zero", "loss": "ce"}


def weights(seed=0, classes=4):
    a, b = jax.random.split(jax.random.key(seed))
    return {
        "a": jax.random.normal(a, (16, 8)) / 4,
        "b": jax.random.normal(b, (8, classes)),
    }


def logits(theta, x):
    return jnp.tanh((x.reshape(len(x), -1) - 0.5) @ theta["a"]) @ theta["b"]


def batch(n=6, edge=False):
    x = jax.random.uniform(jax.random.key(9), (n, 4, 4, 1))
    return x.round() if edge else x, jnp.arange(n) % 4


def numpy_gradient(theta, x, y, loss):
    """By hand, in float64: through the two layers of `logits`."""
    a, b = (np.asarray(theta[name], np.float64) for name in "ab")
    h = np.tanh((x.reshape(len(x), -1) - 0.5) @ a)
    z, rows = h @ b, np.arange(len(x))
    if loss == "ce":
        d = np.exp(z - z.max(1, keepdims=True))
        d /= d.sum(1, keepdims=True)
    else:
        others = z.copy()
        others[rows, y] = -np.inf
        d = np.zeros_like(z)
        d[rows, others.argmax(1)] = 1
    d[rows, y] -= 1
    return (((1 - h**2) * (d @ b.T)) @ a.T).reshape(x.shape)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_pgd_equals_a_numpy_loop(loss, start):
    theta, (x, y) = weights(), batch()
    settings = ZERO | {"loss": loss, "start": start}
    ours = pgd(KEY, Partial(logits, theta), x, y, **settings)
    x, y = np.asarray(x, np.float64), np.asarray(y)
    delta = np.asarray(pgd(KEY, Partial(logits, theta), x, y, **settings | {"steps": 0})) - x
    assert (np.abs(delta).max() > 0) == (start != "zero")
    for _ in range(4):
        u = numpy_gradient(theta, x + delta, y, loss)
        assert np.abs(u).min() > 1e-6, "a sign that rounding may flip would make this a lottery"
        delta = np.clip(delta + STEP * np.sign(u), -EPS, EPS)
        delta = np.clip(x + delta, 0, 1) - x
    np.testing.assert_allclose(ours, x + delta, atol=1e-6)


def test_each_loss_climbs_what_it_is_called():
    f, (x, y) = Partial(logits, weights()), batch()
    reached = {
        loss: pgd(KEY, f, x, y, **ZERO | {"loss": loss, "steps": 20, "step_size": 0.01})
        for loss in ("ce", "margin")
    }
    assert bool((reached["ce"] != reached["margin"]).any())
    for ours, other, value in (("ce", "margin", cross_entropy), ("margin", "ce", margin)):
        assert value(f(reached[ours]), y).mean() > value(f(reached[other]), y).mean()
        assert bool((value(f(reached[ours]), y) > value(f(x), y)).all())


def test_the_hinge_stops_where_it_is_zero_and_the_margin_goes_on():
    theta, (x, _) = weights(), batch()
    sure = Partial(lambda theta, x: 1e3 * logits(theta, x), theta)
    y = sure(x).argmax(-1)
    assert bool((margin(sure(x), y) < -1).all())
    np.testing.assert_array_equal(pgd(KEY, sure, x, y, **ZERO | {"loss": "hinge"}), x)
    assert bool((pgd(KEY, sure, x, y, **ZERO | {"loss": "margin"}) != x).any())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("start", STARTS)
def test_adversarial_images_stay_in_ball_and_box(start, loss):
    x, y = batch(edge=True)  # every pixel on the box
    out = pgd(KEY, Partial(logits, weights()), x, y, **ZERO | {"start": start, "loss": loss})
    assert 0 <= float(out.min()) and float(out.max()) <= 1
    assert float(jnp.abs(out - x).max()) <= EPS + 1e-7
    assert float(jnp.abs(out - x).max()) > 0.9 * EPS


def test_fgsm_is_the_sign_of_the_gradient_times_eps():
    theta, (x, y) = weights(), batch()
    u = numpy_gradient(theta, np.asarray(x, np.float64), np.asarray(y), "ce")
    expected = np.clip(np.asarray(x) + EPS * np.sign(u), 0, 1)
    np.testing.assert_allclose(
        fgsm(KEY, Partial(logits, theta), x, y, eps=EPS), expected, atol=1e-6
    )


def test_another_set_of_weights_costs_no_trace():
    traces = []

    def counted(theta, x):
        traces.append(x.shape)
        return logits(theta, x)

    x, y = batch()
    first = pgd(KEY, Partial(counted, weights(0)), x, y, **ZERO)
    once = len(traces)
    second = pgd(KEY, Partial(counted, weights(1)), x, y, **ZERO | {"eps": 0.2, "step_size": 0.1})
    pgd(KEY, Partial(counted, weights(2)), x, y, **ZERO | {"steps": 7})
    assert once == len(traces) > 0
    assert bool((first != second).any())


def test_a_plain_function_is_a_classifier_too():
    theta, (x, y) = weights(), batch()
    np.testing.assert_array_equal(
        pgd(KEY, lambda x: logits(theta, x), x, y, **ZERO),
        pgd(KEY, Partial(logits, theta), x, y, **ZERO),
    )


def test_numpy_arrays_are_accepted():
    theta, (x, y) = weights(), batch()
    f = Partial(logits, theta)
    np.testing.assert_array_equal(
        pgd(KEY, f, np.asarray(x), np.asarray(y), **ZERO), pgd(KEY, f, x, y, **ZERO)
    )


def test_a_key_is_short_for_one_key_per_image():
    f, (x, y) = Partial(logits, weights()), batch()
    settings = ZERO | {"start": "uniform"}
    one = pgd(KEY, f, x, y, **settings)
    np.testing.assert_array_equal(one, pgd(per_image(KEY, len(x)), f, x, y, **settings))
    assert bool((one != pgd(jax.random.key(6), f, x, y, **settings)).any())


def test_what_an_image_draws_and_gets_does_not_depend_on_its_batch():
    f, (x, y) = Partial(logits, weights()), batch()
    keys, settings = per_image(KEY, len(x)), ZERO | {"start": "uniform"}
    together = pgd(keys, f, x, y, **settings)
    order = jnp.array([4, 1, 5, 0, 2, 3])
    shuffled = pgd(keys[order], f, x[order], y[order], **settings)
    np.testing.assert_allclose(shuffled, together[order], atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loop_of_an_accelerator_gives_what_the_python_loop_gives(loss, monkeypatch):
    f, (x, y) = Partial(logits, weights()), batch(edge=True)
    settings = ZERO | {"start": "uniform", "loss": loss}
    here = pgd(KEY, f, x, y, **settings)
    start = pgd(KEY, f, x, y, **settings | {"steps": 0}) - x
    there = x + _steps(f, x, y, start, EPS, STEP, loss, 4)
    np.testing.assert_allclose(here, there, atol=1e-6)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(pgd(KEY, f, x, y, **settings), there)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"start": "unifrom"}, "unknown start 'unifrom': did you mean 'uniform'"),
        ({"loss": "marginal"}, "unknown loss 'marginal': did you mean 'margin'"),
    ],
)
def test_an_unknown_word_names_the_nearest(wrong, words):
    x, y = batch()
    with pytest.raises(ValueError, match=words):
        pgd(KEY, Partial(logits, weights()), x, y, **ZERO | wrong)
