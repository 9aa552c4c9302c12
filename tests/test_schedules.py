"""The two time scales at their key points, and PyTorch's optimisers written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2ljax.schedules import OPTIMISERS, SCHEDULES, learning_rate, optimiser, radius

PEAK = 0.4
RUN = {"epochs": 10, "steps_per_epoch": 7}


def rates(kind, **settings):
    rate = jax.vmap(lambda step: jnp.asarray(learning_rate(kind, PEAK, **RUN | settings)(step)))
    return np.asarray(rate(jnp.arange(72)))


def test_constant_is_constant():
    np.testing.assert_allclose(rates("constant"), PEAK)


def test_piecewise_drops_with_the_first_step_of_the_named_epoch():
    rate = rates("piecewise", drops=[3, 6], drop_factor=0.2)
    expected = np.repeat([PEAK, 0.2 * PEAK, 0.04 * PEAK], [21, 21, 30])
    np.testing.assert_allclose(rate, expected, rtol=1e-6)


def test_piecewise_takes_its_drops_in_any_order_and_drops_by_ten_unless_told():
    np.testing.assert_array_equal(
        rates("piecewise", drops=[6, 3]), rates("piecewise", drops=[3, 6])
    )
    np.testing.assert_allclose(rates("piecewise", drops=[2])[[13, 14]], [PEAK, PEAK / 10])
    np.testing.assert_allclose(rates("piecewise"), PEAK)


def test_a_drop_may_fall_within_an_epoch():
    rate = rates("piecewise", drops=[2.5])
    assert list(np.flatnonzero(np.diff(rate))) == [round(2.5 * 7) - 1]


def test_two_drops_within_one_step_are_two_drops():
    rate = rates("piecewise", drops=[1.0, 1.01, 5.0], drop_factor=0.1)
    expected = np.repeat([PEAK, 0.01 * PEAK, 0.001 * PEAK], [7, 28, 37])
    np.testing.assert_allclose(rate, expected, rtol=1e-5)


@pytest.mark.parametrize("peak_at", [0.5, 0.4])
def test_cyclic_is_a_triangle_with_its_peak_where_it_is_told(peak_at):
    rate = rates("cyclic", peak_at=peak_at)
    top = round(peak_at * 70)
    expected = np.interp(np.arange(72), [0, top, 70], [0, PEAK, 0])
    np.testing.assert_allclose(rate, expected, atol=1e-6)
    assert rate.argmax() == top


def test_cosine_falls_from_the_peak_to_zero():
    rate = rates("cosine")
    np.testing.assert_allclose(rate[[0, 35, 70, 71]], [PEAK, PEAK / 2, 0, 0], atol=1e-6)
    assert (np.diff(rate[:71]) < 0).all()


def test_phi_counts_its_own_updates():
    """Three moves of phi a step: the caller names three times as many steps an epoch."""
    slow = learning_rate("cosine", PEAK, epochs=10, steps_per_epoch=7)
    fast = learning_rate("cosine", PEAK, epochs=10, steps_per_epoch=21)
    np.testing.assert_allclose(slow(20), fast(60), rtol=1e-6)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_survives_a_run_of_one_step(kind):
    rate = learning_rate(kind, PEAK, epochs=1, steps_per_epoch=1, drops=[1])
    assert 0 <= float(rate(0)) <= np.float32(PEAK)


def test_an_unknown_schedule_or_optimiser_lists_the_known():
    with pytest.raises(ValueError, match="'linear'.*cyclic"):
        learning_rate("linear", PEAK, **RUN)
    with pytest.raises(ValueError, match="'adamw'.*nesterov"):
        optimiser("adamw", optax.constant_schedule(PEAK), weight_decay=0.0)


def test_the_radius_grows_by_equal_parts_and_then_stays():
    schedule = radius(0.3, warmup_epochs=2, steps_per_epoch=3)
    grown = [float(schedule(jnp.asarray(step))) for step in range(9)]
    np.testing.assert_allclose(grown, 0.3 * np.minimum(1, np.arange(1, 10) / 6), rtol=1e-6)


def test_without_warm_up_the_radius_is_eps_from_the_first_step():
    schedule = radius(0.3, warmup_epochs=0, steps_per_epoch=3)
    assert float(schedule(jnp.asarray(0))) == np.float32(0.3)


W = np.array([1.0, -2.0, 0.5])
GRADIENTS = [np.array([0.3, -0.1, 2.0]), np.array([-0.2, 0.4, 1.0]), np.array([0.1, 0.1, -3.0])]
RATES = [0.1, 0.05, 0.02]
WD, MOMENTUM, B2 = 0.1, 0.8, 0.95


def torch_sgd(nesterov):
    """PyTorch's SGD: decay into the gradient, momentum without dampening, rate outside."""
    w, buffer = W, 0.0
    for g, lr in zip(GRADIENTS, RATES, strict=True):
        g = g + WD * w
        buffer = MOMENTUM * buffer + g
        w = w - lr * (g + MOMENTUM * buffer if nesterov else buffer)
        yield w


def torch_adam():
    """PyTorch's Adam (not AdamW): decay into the gradient before the moments."""
    w, m, v = W, 0.0, 0.0
    for t, (g, lr) in enumerate(zip(GRADIENTS, RATES, strict=True), start=1):
        g = g + WD * w
        m, v = MOMENTUM * m + (1 - MOMENTUM) * g, B2 * v + (1 - B2) * g * g
        w = w - lr * (m / (1 - MOMENTUM**t)) / (np.sqrt(v / (1 - B2**t)) + 1e-8)
        yield w


WRITTEN_OUT = {
    "sgd": lambda: torch_sgd(nesterov=False),
    "nesterov": lambda: torch_sgd(nesterov=True),
    "adam": torch_adam,
}


def follow(tx, gradients=GRADIENTS):
    w = jnp.asarray(W, jnp.float32)
    opt = tx.init(w)
    for g in gradients:
        updates, opt = tx.update(jnp.asarray(g, jnp.float32), opt, w)
        w = optax.apply_updates(w, updates)
        yield w


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_three_updates_are_those_of_pytorch(kind):
    def rate(step):
        return jnp.asarray(RATES)[step]

    tx = optimiser(kind, rate, weight_decay=WD, momentum=MOMENTUM, b2=B2)
    for ours, theirs in zip(follow(tx), WRITTEN_OUT[kind](), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_weight_decay_alone_shrinks_the_weights(kind):
    tx = optimiser(kind, optax.constant_schedule(0.01), weight_decay=WD)
    *_, end = follow(tx, [np.zeros(3)] * 3)
    assert (np.abs(end) < np.abs(W)).all()
    *_, still = follow(optimiser(kind, optax.constant_schedule(0.01), weight_decay=0.0), [W * 0])
    np.testing.assert_array_equal(still, W.astype(np.float32))


def test_the_clip_bounds_the_gradients_norm_before_the_decay_and_spares_small_ones():
    one = optax.constant_schedule(1.0)
    tx = optimiser("sgd", one, weight_decay=WD, momentum=0.0, clip=0.5)
    big, small = np.array([30.0, 40.0, 0.0]), np.array([0.1, 0.0, 0.2])
    (after,) = follow(tx, [big])
    np.testing.assert_allclose(W - after, 0.5 * big / 50 + WD * W, rtol=1e-5)
    (after,) = follow(tx, [small])
    np.testing.assert_allclose(W - after, small + WD * W, rtol=1e-5)
