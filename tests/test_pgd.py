"""PGD against a NumPy loop, and what a user of it relies on: ball, box, keys, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import softmax

from l2ljax.attacks import pgd
from l2ljax.attacks.pgd import LOSSES, begin
from l2ljax.ball import NORMS, STARTS, per_image, size
from l2ljax.losses import cross_entropy, dlr, margin

EPS, STEP = 0.1, 0.04
KEY = jax.random.key(5)
ZERO = {"eps": EPS, "steps": 4, "step_size": STEP, "start": "zero", "loss": "ce"}
WIDER = {"linf": 1, "l2": 4}
"""By how much a radius grows when 16 pixels share it."""


def settings_of(norm, **changes):
    wide = {"eps": EPS * WIDER[norm], "step_size": STEP * WIDER[norm], "norm": norm}
    return ZERO | wide | changes


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


def begun(x, settings):
    """The perturbation before the first step."""
    return begin(KEY, jnp.asarray(x), settings["start"], eps=settings["eps"], norm=settings["norm"])


def numpy_gradient(theta, x, y, loss, clean):
    """By hand, in float64: through the two layers of `logits`."""
    a, b = (np.asarray(theta[name], np.float64) for name in "ab")
    h = np.tanh((x.reshape(len(x), -1) - 0.5) @ a)
    z, true = h @ b, np.eye(b.shape[1])[y]
    if loss == "ce":
        d = softmax(z, axis=1) - true
    elif loss == "kl":
        d = softmax(z, axis=1) - softmax(logits(theta, clean), axis=1)
    else:
        other = np.eye(b.shape[1])[np.where(true, -np.inf, z).argmax(1)]
        d = other - true
        if loss == "dlr":
            first, third = (np.eye(b.shape[1])[np.argsort(z)[:, -k]] for k in (1, 3))
            gap, spread = (z * d).sum(1), (z * (first - third)).sum(1)
            d = d / spread[:, None] - (gap / spread**2)[:, None] * (first - third)
    return (((1 - h**2) * (d @ b.T)) @ a.T).reshape(x.shape)


def numpy_step(delta, u, step, eps, norm):
    if norm == "linf":
        return np.clip(delta + step * np.sign(u), -eps, eps)
    delta = delta + step * u / np.linalg.norm(u.reshape(len(u), -1), axis=1)[:, None, None, None]
    norms = np.linalg.norm(delta.reshape(len(u), -1), axis=1)[:, None, None, None]
    return delta * np.minimum(1, eps / norms)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "loss, start",
    [(loss, start) for loss in ("ce", "margin") for start in STARTS]
    + [("dlr", "zero"), ("dlr", "uniform"), ("kl", "uniform")],
)
def test_pgd_equals_a_numpy_loop(loss, start, norm):
    theta, (x, y) = weights(), batch()
    settings = settings_of(norm, loss=loss, start=start)
    if loss == "dlr":  # it is 1, whatever x, once the label has fallen to the third place
        y = logits(theta, x).argmax(-1)
        settings["eps"], settings["step_size"] = settings["eps"] / 5, settings["step_size"] / 5
    ours = pgd(KEY, Partial(logits, theta), x, y, **settings)
    x, y = np.asarray(x, np.float64), np.asarray(y)
    clean = x
    delta = np.asarray(begun(x, settings), np.float64)
    assert (np.abs(delta).max() > 0) == (start != "zero")
    for _ in range(4):
        u = numpy_gradient(theta, x + delta, y, loss, clean)
        assert np.abs(u).min() > 1e-7, "a sign that rounding may flip would make this a lottery"
        delta = numpy_step(delta, u, settings["step_size"], settings["eps"], norm)
        delta = np.clip(x + delta, 0, 1) - x
    np.testing.assert_allclose(ours, x + delta, atol=2e-6)


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


def test_dlr_is_climbed_until_the_label_is_third():
    f, (x, _) = Partial(logits, weights()), batch()
    y = f(x).argmax(-1)
    out = pgd(KEY, f, x, y, **ZERO | {"loss": "dlr"})
    assert bool((dlr(f(out), y) > dlr(f(x), y) + 0.1).all())


def test_kl_climbs_away_from_the_clean_output():
    f, (x, y) = Partial(logits, weights()), batch()

    def moved(steps):
        settings = settings_of("linf", loss="kl", start="gaussian", steps=steps)
        out = pgd(KEY, f, x, y, **settings) if steps else x + begun(x, settings)
        p, q = (jax.nn.log_softmax(f(a)) for a in (x, out))
        return (jnp.exp(p) * (p - q)).sum(-1)

    assert bool((moved(4) > 100 * moved(0)).all())


def test_the_hinge_stops_where_it_is_zero_and_the_margin_goes_on():
    theta, (x, _) = weights(), batch()
    sure = Partial(lambda theta, x: 1e3 * logits(theta, x), theta)
    y = sure(x).argmax(-1)
    assert bool((margin(sure(x), y) < -1).all())
    np.testing.assert_array_equal(pgd(KEY, sure, x, y, **ZERO | {"loss": "hinge"}), x)
    assert bool((pgd(KEY, sure, x, y, **ZERO | {"loss": "margin"}) != x).any())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "loss, start", [*((loss, "zero") for loss in LOSSES), ("kl", "gaussian"), ("ce", "uniform")]
)
def test_adversarial_images_stay_in_ball_and_box(loss, start, norm):
    x, y = batch(edge=True)  # every pixel on the box
    settings = settings_of(norm, start=start, loss=loss)
    out = pgd(KEY, Partial(logits, weights()), x, y, **settings)
    assert 0 <= float(out.min()) and float(out.max()) <= 1
    norms = size(out - x, norm)
    assert float(norms.max()) <= settings["eps"] + 1e-6
    assert float(norms.max()) > 0.4 * settings["eps"]


def test_an_array_is_a_start_too():
    f, (x, y) = Partial(logits, weights()), batch()
    for norm in NORMS:
        settings = settings_of(norm)
        delta = begin(KEY, x, "uniform", eps=settings["eps"], norm=norm)
        np.testing.assert_allclose(
            pgd(KEY, f, x, y, **settings | {"start": np.asarray(delta)}),
            pgd(KEY, f, x, y, **settings | {"start": "uniform"}),
            atol=1e-6,
        )


@pytest.mark.parametrize("norm", NORMS)
def test_a_start_outside_ball_and_box_is_brought_back(norm):
    (x, _), settings = batch(edge=True), settings_of(norm)
    out = x + begun(x, settings | {"start": 9.0 * jnp.ones_like(x)})
    assert float(size(out - x, norm).max()) <= settings["eps"] + 1e-6
    assert 0 <= float(out.min()) and float(out.max()) <= 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_few_classes_and_a_single_image_are_attacked(classes, norm):
    f = Partial(logits, weights(classes=classes))
    x = batch()[0]
    y = f(x).argmax(-1)
    for loss in ("ce", "margin", "dlr"):
        settings = settings_of(norm, loss=loss)
        whole = pgd(KEY, f, x, y, **settings)
        assert bool((margin(f(whole), y) > margin(f(x), y)).all()), loss
        one = pgd(KEY, f, x[:1], y[:1], **settings)
        np.testing.assert_allclose(one, whole[:1], atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_nan_at_one_image_does_not_reach_another(norm):
    theta, (x, y) = weights(), batch()

    def broken(theta, x):
        return logits(theta, x) * jnp.where(x[:, :1, 0, 0] == 0.125, jnp.nan, 1)

    f, settings = Partial(broken, theta), settings_of(norm, loss="margin")
    x = x.at[2, 0, 0, 0].set(0.125)
    assert bool(jnp.isnan(margin(f(x), y))[2])
    out = pgd(KEY, f, x, y, **settings)
    alone = pgd(KEY, Partial(logits, theta), x, y, **settings)
    others = jnp.array([0, 1, 3, 4, 5])
    assert bool(jnp.isfinite(out).all())
    np.testing.assert_allclose(out[others], alone[others], atol=1e-6)


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


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", [*LOSSES, "kl"])
def test_the_loop_of_an_accelerator_gives_what_the_python_loop_gives(loss, norm, monkeypatch):
    f, (x, y) = Partial(logits, weights()), batch(edge=True)
    settings = settings_of(norm, start="uniform", loss=loss)
    here = pgd(KEY, f, x, y, **settings)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = pgd(KEY, f, x, y, **settings)
    assert bool((here != x + begun(x, settings)).any())
    np.testing.assert_allclose(here, there, atol=1e-6)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"start": "unifrom"}, "unknown start 'unifrom': did you mean 'uniform'"),
        ({"loss": "marginal"}, "unknown loss 'marginal': did you mean 'margin'"),
        ({"norm": "L2"}, "unknown norm 'L2': did you mean 'l2'"),
        ({"loss": "kl"}, "'kl' has no gradient at the image itself"),
    ],
)
def test_a_wrong_word_is_one_clear_line(wrong, words):
    x, y = batch()
    with pytest.raises(ValueError, match=words):
        pgd(KEY, Partial(logits, weights()), x, y, **ZERO | wrong)
