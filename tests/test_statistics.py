"""Which passes a step's BatchNorm statistics have seen, and that keeping them costs nothing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from games import EPS, SGD, SmoothAttacker, images, method_of, small_net
from l2ljax import losses
from l2ljax.apply import functional, initialise, pass_again
from l2ljax.bilevel import init_state, make_step
from l2ljax.methods import METHODS
from l2ljax.types import Inner, Solver, no_phi

KEY = jax.random.key(4)

KEPT = {
    "plain": (0, 1),
    "fgsm": (1, 2),
    "pgm": (3, 2),
    "naive_l2l": (0, 1),
    "grad_l2l": (1, 1),
    "two_step_l2l": (2, 1),
    "multistep_l2l": (3, 1),
    "kstep_l2l": (3, 1),
    "grad_l2l_trades": (1, 3),
    "two_step_l2l_trades": (2, 3),
    "grad_l2l_interp": (3, 1),
    "two_step_l2l_interp": (4, 1),
    "rnn_adv": (4, 1),
    "rnn_trades": (5, 3),
    "trades": (4, 3),
    "fast_bat": (3, 1),
    "fast_at": (1, 1),
    "n_fgsm": (1, 1),
    "grad_align": (2, 1),
    "pgd2": (2, 1),
    "pgd10": (10, 1),
    "apgd10": (11, 1),
}
"""Passes in crafting and in the training loss, with the 3 inner steps of `games`.

Beyond the gradients it takes, a method looks at the features of the partners and of x + delta
(interpolation), at x for the KL (TRADES), at x + delta for what phi learns (the RNN) and for the
implicit gradient (Fast-BAT), and at the last iterate (APGD).
"""


class Counting:
    """A linear f whose statistics count the passes kept; in eval it gives NaN once they moved."""

    def __init__(self):
        self.modes = []

    def __call__(self, theta, stats, x, mode, rng=None, features=False):
        self.modes.append(mode)
        h = x.reshape(len(x), -1)
        out = h if features else h[:, :3] * theta
        if mode == "eval":
            return out + jnp.where(stats == 0, 0.0, jnp.nan), stats
        return out, stats + 1 if mode == "update" else stats


def counted(name, craft_bn, order="simultaneous", pick=lambda state: state.theta_stats):
    """The passes that one step keeps, and the f that has counted them."""
    f, (x, y) = Counting(), images(n=4, size=4, classes=3)
    method = method_of(name, SmoothAttacker(), order=order)
    state = init_state(KEY, jnp.ones(()), jnp.zeros(()), method, SGD, SGD, x)
    step = make_step(f, method, SGD, SGD, eps=EPS, craft_bn=craft_bn)
    return float(jax.jit(lambda *given: pick(step(*given)[0]))(state, (x, y), KEY)), f


@pytest.mark.parametrize("name", METHODS)
def test_update_keeps_every_pass_and_the_other_modes_those_of_the_training_loss(name):
    crafting, training = KEPT[name]
    assert counted(name, "update")[0] == crafting + training
    for mode in ("batch", "eval"):
        assert counted(name, mode)[0] == training


@pytest.mark.parametrize("name", ["grad_l2l", "kstep_l2l", "two_step_l2l_trades"])
def test_phis_own_turn_keeps_no_pass(name):
    assert counted(name, "update", "alternating")[0] == sum(KEPT[name])


@pytest.mark.parametrize("name", ["grad_align", "fgsm", "grad_l2l", "trades"])
def test_eval_looks_at_the_statistics_of_the_steps_beginning_also_after_a_pass_has_moved_them(name):
    theta, f = counted(name, "eval", pick=lambda state: state.theta)
    assert np.isfinite(theta) and {"eval", "update"} <= set(f.modes)
    if name == "grad_align":  # its penalty comes after the pass over x + delta
        assert "eval" in f.modes[f.modes.index("update") :]


class OnPixels(nn.Module):
    """Its statistics are those of the pixels themselves."""

    momentum: float

    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        return nn.Dense(3)(nn.BatchNorm(not train, momentum=self.momentum, name="norm")(x))


@pytest.mark.parametrize("name", ["trades", "grad_l2l_trades", "rnn_trades"])
@pytest.mark.parametrize("m", [0.9, 0.6])
def test_trades_passes_clean_images_twice_and_the_attacked_ones_between(name, m):
    x, y = images(size=4, classes=3)
    net = OnPixels(m)
    theta, stats = initialise(net, KEY, x)
    stats = jax.tree.map(lambda a: a + 0.5, stats)
    method = method_of(name, SmoothAttacker())

    def solve(problem, theta, phi, phi_stats):
        return Inner(0.4 * (0.7 - problem.x))

    method = method._replace(solver=Solver(no_phi, solve), learns=False)
    state = init_state(KEY, theta, stats, method, SGD, SGD, x)
    step = make_step(functional(net), method, SGD, SGD, eps=EPS, craft_bn="eval")
    after = jax.jit(step)(state, (x, y), KEY)[0].theta_stats["batch_stats"]["norm"]
    pixels = np.asarray(x).reshape(len(x), -1)
    attacked = pixels + 0.4 * (0.7 - pixels)
    weights = m**2 * (1 - m) + (1 - m), m * (1 - m)
    for moment, start in ((np.mean, 0.5), (np.var, 1.5)):
        expected = m**3 * start + sum(
            w * moment(seen, 0) for w, seen in zip(weights, (pixels, attacked), strict=True)
        )
        np.testing.assert_allclose(after[moment.__name__], expected, atol=1e-6)


class Deep(nn.Module):
    """Two convolutions with BatchNorm: the second one's statistics hang on the first layer's."""

    @nn.compact
    def __call__(self, x, train, features=False):
        for _ in range(2):
            x = nn.BatchNorm(not train, momentum=0.8)(nn.Conv(8, (3, 3))(x))
            x = nn.tanh(x)
        h = x.mean((1, 2))
        return h if features else nn.Dense(10)(h)


class Spectral(nn.Module):
    """Statistics that are no averages: nn.SpectralNorm's power iteration."""

    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        return nn.SpectralNorm(nn.Dense(10))(x, update_stats=train)


def three_passes(net):
    """A real third pass over x after x and x + delta, `pass_again`, and its linear rule."""
    x, _ = images()
    theta, before = initialise(net, KEY, x)
    before = jax.tree.map(lambda a: a + 0.3, before)

    def seeing(theta, stats, x):
        return functional(net)(theta, stats, x, "update")

    def both(theta, before, x):
        after = seeing(theta, before, x)[1]
        later = seeing(theta, after, 1 - 0.5 * x)[1]
        real = seeing(theta, later, x)[1]
        step = jax.tree.map(jnp.subtract, later, before)
        move = jax.jvp(lambda stats: seeing(theta, stats, x)[1], (before,), (step,))[1]
        linear = jax.tree.map(jnp.add, after, move)
        return later, real, pass_again(seeing, theta, x, before, after, later), linear

    return jax.jit(both)(theta, before, x)


def apart(a, b):
    return max(
        float(jnp.abs(u - v).max()) for u, v in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


@pytest.mark.parametrize("net", [Deep(), OnPixels(0.9)])
def test_a_pass_that_is_not_computed_again_leaves_the_statistics_of_one_that_is(net):
    later, real, again, _ = three_passes(net)
    assert apart(again, real) < 1e-6 and apart(real, later) > 1e-3


def test_statistics_that_are_no_averages_get_the_pass_itself():
    later, real, again, linear = three_passes(Spectral())
    assert apart(again, real) < 1e-6
    assert apart(real, later) > 1e-3 and apart(linear, real) > 1e-3


def flops_of_a_step(name, craft_bn, net):
    """As the program is written, before XLA merges what is computed twice."""
    f, theta, stats = net
    x, y = images()
    method = method_of(name, SmoothAttacker())
    state = init_state(KEY, theta, stats, method, SGD, SGD, x)
    step = make_step(f, method, SGD, SGD, eps=EPS, craft_bn=craft_bn)
    return jax.jit(step).lower(state, (x, y), KEY).cost_analysis()["flops"]


@pytest.mark.parametrize("name, net", [*((name, "deep") for name in METHODS), ("fast_bat", "wrn")])
def test_keeping_the_statistics_costs_no_pass(name, net):
    net = (
        small_net() if net == "wrn" else (functional(Deep()), *initialise(Deep(), KEY, images()[0]))
    )
    batch, update = (flops_of_a_step(name, mode, net) for mode in ("batch", "update"))
    assert 0 < update <= 1.002 * batch


def test_the_second_clean_pass_of_trades_costs_nothing(monkeypatch):
    net = functional(Deep()), *initialise(Deep(), KEY, images()[0])
    with_it = flops_of_a_step("trades", "eval", net)
    monkeypatch.setattr(losses, "pass_again", lambda f, theta, x, before, after, later: later)
    assert with_it <= 1.002 * flops_of_a_step("trades", "eval", net)
