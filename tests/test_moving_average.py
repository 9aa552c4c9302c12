"""The moving average is a model: its own statistics serve it as well as newly computed ones."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from games import method_of, small_net
from l2ljax.apply import functional, initialise
from l2ljax.attacks import parse
from l2ljax.bilevel import init_state, make_step
from l2ljax.checkpoint import Checkpoints, fingerprint
from l2ljax.data import load, scale
from l2ljax.errors import CheckpointError
from l2ljax.evaluation.accuracy import freeze, robust
from l2ljax.models import make_classifier
from l2ljax.schedules import decay_at
from l2ljax.types import State

EPS, DECAY, STEPS, SEEDS = 0.1, 0.99, 200, range(5)
SGD = optax.sgd(0.1, 0.9)


def recalibrated(update, theta, stats, x):
    """The mean over the training set of what each batch gives BatchNorm: a pass from zero."""
    zero = jax.tree.map(jnp.zeros_like, stats)
    batches = x[: len(x) // 128 * 128].reshape(-1, 128, *x.shape[1:])
    # Flax's average has momentum 0.9, so that one update from zero holds a tenth of the batch's.
    seen = [jax.tree.map(lambda s: 10 * s, update(theta, zero, batch)) for batch in batches]
    return jax.tree.map(lambda *each: sum(each) / len(each), *seen)


def test_averaged_statistics_are_as_good_as_new_ones():
    """Half a WRN-10-1 on digits, decay 0.99, 200 steps: within a point, clean and under PGM-10."""
    data = load("digits")
    x, y = scale(jnp.asarray(data.x_train)), jnp.asarray(data.y_train)
    net = make_classifier("wrn-10-1", 10, width=0.5, mean=data.mean, std=data.std)
    f, method = functional(net), method_of("fast_at", inner_step=1.25 * EPS)
    step = make_step(f, method, SGD, SGD, eps=EPS, ema_decay=DECAY)
    # A thousand steps repay the optimisation that the suite's other programs go without.
    step = jax.jit(step, donate_argnums=0, compiler_options={"xla_backend_optimization_level": 2})
    frozen = freeze(f)
    update = jax.jit(lambda theta, stats, batch: f(theta, stats, batch, "update")[1])
    gaps = []
    for seed in SEEDS:
        key = jax.random.key(seed)
        theta, stats = initialise(net, key, x[:2])
        state = init_state(key, theta, stats, method, SGD, SGD, x[:2], ema=True)
        for rows in np.random.default_rng(seed).integers(len(x), size=(STEPS, 128)):
            state, _ = step(state, (x[rows], y[rows]), key)
        new = recalibrated(update, state.ema, state.ema_stats, x)

        def accuracies(statistics, state=state, key=key):
            f = frozen(state.ema, statistics)
            test = data.x_test, data.y_test
            how = {"eps": EPS, "batch_size": len(data.x_test)}
            return [robust(key, f, *test, parse(name), **how).mean() for name in ("clean", "pgm10")]

        gaps.append(np.subtract(accuracies(state.ema_stats), accuracies(new)))
    clean, pgm10 = np.mean(gaps, axis=0)
    assert abs(clean) <= 0.01 and abs(pgm10) <= 0.01, gaps


def test_the_average_of_statistics_has_the_decay_of_thetas():
    f, theta, stats = small_net()
    x = jax.random.uniform(jax.random.key(0), (8, 8, 8, 1))
    method = method_of("plain")
    state = init_state(jax.random.key(0), theta, stats, method, SGD, SGD, x, ema=True)
    step = jax.jit(make_step(f, method, SGD, SGD, eps=EPS, ema_decay=0.9))
    for t in range(3):
        after, _ = step(state, (x, jnp.arange(8)), jax.random.key(0))
        d = min(0.9, (1 + t) / (10 + t))
        for average, new, expected in (
            (state.ema, after.theta, after.ema),
            (state.ema_stats, after.theta_stats, after.ema_stats),
        ):
            mixed = jax.tree.map(lambda a, b, d=d: d * a + (1 - d) * b, average, new)
            for found, wanted in zip(*map(jax.tree.leaves, (expected, mixed)), strict=True):
                np.testing.assert_allclose(found, wanted, atol=1e-6)
        state = after


def test_the_decay_is_warmed_up_to_what_was_asked_for():
    assert [round(float(decay_at(t, 0.99)), 3) for t in (0, 10, 890, 5000)] == [
        0.1,
        0.55,
        0.99,
        0.99,
    ]


def test_a_checkpoint_of_before_loads_unless_it_lacks_the_averages(tmp_path):
    """A state had no averaged statistics once: a run without an average has lost nothing."""
    Before = namedtuple("Before", State._fields[:-1])
    f, theta, stats = small_net()
    x, method = jnp.zeros((2, 8, 8, 1)), method_of("plain")
    for ema in (False, True):
        state = init_state(jax.random.key(0), theta, stats, method, SGD, SGD, x, ema=ema)
        with Checkpoints(tmp_path / str(ema)) as checkpoints:
            checkpoints.save(3, Before(*state[:-1]), {})
            if not ema:
                found, _, step = checkpoints.restore(state)
                assert step == 3 and fingerprint(found) == fingerprint(state)
                continue
            with pytest.raises(CheckpointError, match="ema_stats/.* is absent there"):
                checkpoints.restore(state)
