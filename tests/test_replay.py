"""Three steps of every authors' code beside ours, in float64: weights and statistics agree."""

import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import replays
from games import method_of
from l2ljax.apply import functional
from l2ljax.ball import STARTS, noise, per_image
from l2ljax.bilevel import init_state, make_step
from l2ljax.types import stream
from replays import EPS

STEPS, N, SIZE, CHANNELS, HIDDEN = 3, 6, 4, 2, 5


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x, train, features=False):
        h = nn.Dense(HIDDEN, name="first")(x.reshape(len(x), -1))
        h = nn.tanh(nn.BatchNorm(not train, momentum=0.9, name="norm")(h))
        return h if features else nn.Dense(replays.CLASSES, name="last")(h)


class Attacker(nn.Module):
    @nn.compact
    def __call__(self, a, train):
        h = nn.tanh(
            nn.BatchNorm(not train, momentum=0.9, name="norm")(nn.Dense(4, name="first")(a))
        )
        return nn.tanh(nn.Dense(CHANNELS, name="last")(h))


def player(inputs, hidden, outputs, seed):
    """Weights and statistics of a network, none of them 0 or 1."""
    draw = np.random.default_rng(seed)

    def layer(a, b):
        kernel = draw.normal(size=(a, b)) * np.sqrt(3 / a)
        return {"kernel": jnp.array(kernel), "bias": jnp.array(draw.normal(size=b))}

    def positive():
        return jnp.array(draw.uniform(0.5, 1.5, hidden))

    norm = {"scale": positive(), "bias": jnp.array(draw.normal(size=hidden) / 2)}
    w = {"first": layer(inputs, hidden), "norm": norm, "last": layer(hidden, outputs)}
    running = {"mean": jnp.array(draw.normal(size=hidden)), "var": positive()}
    return replays.Player(w, running, jax.tree.map(jnp.zeros_like, w))


def batches(away_from_the_box):
    """One batch a step; a third of the pixels is black or white unless the box is to be far off."""
    draw = np.random.default_rng(5)
    low, high = (0.2, 0.8) if away_from_the_box else (-0.25, 1.25)
    x = draw.uniform(low, high, (STEPS, N, SIZE, SIZE, CHANNELS)).clip(0, 1)
    return jnp.array(x), jnp.array(draw.integers(0, replays.CLASSES, (STEPS, N)))


DRAWS = {
    "nothing": lambda keys, x: jnp.zeros_like(x),
    "noise": lambda keys, x: noise(keys, x, EPS),
    "double noise": lambda keys, x: noise(keys, x, 2 * EPS),
    "later noise": lambda keys, x: noise(stream(keys, "training"), x, EPS),
    "gaussian": lambda keys, x: STARTS["gaussian"](keys, x, EPS),
}
"""The random numbers of a step, from the keys of its images; none is cut to the box here."""


class Case(NamedTuple):
    """A code written plainly, and the method and the settings that are to be the same."""

    plain: Any
    method: str
    settings: dict[str, Any] = {}
    draws: str = "nothing"
    craft_bn: str = "update"
    order: str = "alternating"


TRADES = {"trades_beta": replays.BETA}
PGM = {"inner_steps": replays.PGM_STEPS, "inner_step": replays.PGM_STEP}
GAUSSIAN = PGM | {"attacker_start": "gaussian"}
UNIFORM = {"attacker_start": "uniform"}
INTERP = {"interp_label": replays.LABEL_DELTA}
BAT = {"bat_step": replays.BAT_STEP, "bat_lambda": replays.BAT_LAMBDA}
K = {"inner_steps": replays.K_STEPS, "inner_step": replays.K_STEP}

CASES = {
    "Naive L2L": Case(replays.l2l(replays.naive), "naive_l2l"),
    "Grad L2L": Case(replays.l2l(replays.one_step), "grad_l2l"),
    "2-Step L2L": Case(replays.l2l(replays.two_step), "two_step_l2l"),
    "K-step L2L": Case(replays.l2l(replays.k_step), "kstep_l2l", K),
    "Grad L2L, TRADES": Case(replays.l2l(replays.one_step, True), "grad_l2l_trades", TRADES),
    "2-Step L2L, TRADES": Case(replays.l2l(replays.two_step, True), "two_step_l2l_trades", TRADES),
    "interpolation, one step": Case(
        replays.interpolation(1), "grad_l2l_interp", INTERP, "noise", "eval", "simultaneous"
    ),
    "interpolation, two steps": Case(
        replays.interpolation(2), "two_step_l2l_interp", INTERP, "noise", "eval", "simultaneous"
    ),
    "L2L's PGM": Case(replays.pgm_mix, "pgm", GAUSSIAN, "gaussian", "eval"),
    "TRADES": Case(replays.trades, "trades", GAUSSIAN | TRADES, "gaussian", "eval"),
    "FGSM-RS": Case(
        replays.pgd(1, 1.25 * EPS), "fast_at", UNIFORM | {"inner_step": 1.25 * EPS}, "noise"
    ),
    "PGD-2": Case(replays.pgd(2, EPS / 2), "pgd2", UNIFORM | {"inner_step": EPS / 2}, "noise"),
    "PGD-10": Case(replays.pgd(10, EPS / 4), "pgd10", UNIFORM | {"inner_step": EPS / 4}, "noise"),
    "N-FGSM": Case(replays.n_fgsm, "n_fgsm", {"noise": 2.0, "inner_step": EPS}, "double noise"),
    "GradAlign": Case(
        replays.grad_align, "grad_align", {"ga_lambda": replays.ALIGNMENT}, "later noise"
    ),
    "Fast-BAT": Case(replays.fast_bat, "fast_bat", BAT, "noise"),
}


def image_keys(rng, step):
    """The keys of the images in a step's first turn."""
    key = jax.random.fold_in(jax.random.fold_in(rng, 0), step)
    turn = jax.random.fold_in(stream(key, "turn"), 0)
    return per_image(stream(turn, "images"), N)


def both_sides(case):
    """(theta, phi) before, after three plain steps, and after three of ours."""
    method = method_of(case.method, Attacker(), order=case.order, **case.settings)
    theta = player(SIZE * SIZE * CHANNELS, HIDDEN, replays.CLASSES, seed=1)
    seen = CHANNELS if case.method == "naive_l2l" else 2 * CHANNELS
    phi = player(seen, 4, CHANNELS, seed=2) if method.learns else replays.Player({}, {}, {})
    xs, ys = batches(away_from_the_box=case.draws == "gaussian")
    sgd = optax.chain(
        optax.add_decayed_weights(replays.DECAY), optax.sgd(replays.LR, replays.SPEED_KEPT)
    )
    rng = jax.random.key(9)
    stats, phi_stats = ({"batch_stats": {"norm": p.running}} for p in (theta, phi))
    state = init_state(rng, theta.w, stats, method, sgd, sgd, xs[0])
    if method.learns:
        state = state._replace(phi=phi.w, phi_stats=phi_stats, opt_phi=sgd.init(phi.w))
    step = make_step(functional(Classifier()), method, sgd, sgd, eps=EPS, craft_bn=case.craft_bn)
    step, plain, game = jax.jit(step), jax.jit(case.plain), (theta, phi)
    for t, batch in enumerate(zip(xs, ys, strict=True)):
        state, _ = step(state, batch, rng)
        game = plain(game, *batch, DRAWS[case.draws](image_keys(rng, t), batch[0]))
    ours = [(state.theta, state.theta_stats), (state.phi, state.phi_stats)]
    ours = [(w, stats["batch_stats"]["norm"] if stats else {}) for w, stats in ours]
    return [(p.w, p.running) for p in (theta, phi)], [(p.w, p.running) for p in game], ours


def differences(a, b):
    """For every array the largest difference over the largest entry."""
    return jax.tree.map(lambda u, v: float(jnp.abs(u - v).max() / jnp.abs(v).max()), a, b)


@pytest.mark.parametrize("name", CASES)
def test_three_steps_leave_the_weights_and_the_statistics_of_the_authors_code(name):
    with jax.enable_x64(True):
        before, plain, ours = both_sides(CASES[name])
        changed = differences(before, plain)
        assert min(jax.tree.leaves(changed)) > 1e-3, f"nothing to compare: {changed}"
        off = differences(ours, plain)
    assert max(jax.tree.leaves(off)) < 1e-9, off


def test_the_plain_writing_uses_nothing_of_the_package():
    assert "l2ljax" not in pathlib.Path(replays.__file__).read_text()
