"""Claims about every row of METHODS; a new row is checked without being told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from games import EPS, SGD, images, keys, method_of, seen_by, small_net
from l2ljax.bilevel import init_state, make_step
from l2ljax.methods import METHODS, make_method, takers


@functools.cache
def net():
    return small_net()


@functools.cache
def compiled(name):
    """The inner problem of a row, once for all tests: (phi, x, eps, keys) -> Inner."""
    f, theta, stats = net()
    method, (x, y) = method_of(name), images()
    phi, phi_stats = method.solver.init(jax.random.key(2), x)

    @jax.jit
    def run(x, eps, keys):
        ell = method.attack_loss(seen_by(f, "batch", stats), theta, stats, x, y)
        return method.solver.solve(keys, theta, phi, phi_stats, ell, x, y, eps=eps, train=False)

    return run, method


def solve(name, eps=EPS, seed=3, x=None):
    run, method = compiled(name)
    x = images()[0] if x is None else x
    return x, run(x, eps, keys(seed=seed)), method


@pytest.mark.parametrize("name", METHODS)
def test_delta_stays_in_ball_and_box(name):
    x = jax.random.uniform(jax.random.key(9), images()[0].shape).round(1)  # many 0.0 and 1.0
    x, inner, method = solve(name, x=x)
    assert float(jnp.abs(inner.delta).max()) <= method.solver.radius * EPS + 1e-8
    assert 0.0 <= float((x + inner.delta).min()) and float((x + inner.delta).max()) <= 1.0
    if name != "plain":
        assert float(jnp.abs(inner.delta).max()) > 0


@pytest.mark.parametrize("name", METHODS)
def test_zero_eps_gives_zero_delta(name):
    assert float(jnp.abs(solve(name, eps=0.0)[1].delta).max()) == 0.0


@pytest.mark.parametrize("name", METHODS)
def test_same_key_same_delta(name):
    np.testing.assert_array_equal(solve(name)[1].delta, solve(name)[1].delta)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_moves_phi_exactly_if_it_learns_and_compiles_once(name):
    f, theta, stats = net()
    method, (x, y) = method_of(name), images()
    state = init_state(jax.random.key(2), theta, stats, method, SGD, SGD, x)
    step = jax.jit(make_step(f, method, SGD, SGD, eps=EPS))
    after, metrics = step(state, (x, y), jax.random.key(0))
    again, _ = step(after, (x, y), jax.random.key(0))
    assert step._cache_size() == 1
    assert int(again.step) == 2
    moved = [
        bool((a != b).any())
        for a, b in zip(*map(jax.tree.leaves, (state.theta, after.theta)), strict=True)
    ]
    assert any(moved)
    phi = [
        bool((a != b).any())
        for a, b in zip(*map(jax.tree.leaves, (state.phi, after.phi)), strict=True)
    ]
    assert any(phi) == method.learns == METHODS[name].learns
    assert ("phi/grad_norm" in metrics) == method.learns
    assert all(bool(jnp.isfinite(value)) for value in metrics.values())


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'grad_l2l'"):
        make_method("grad_12l", smoothing=0.0, order="simultaneous")


def test_a_method_wants_each_of_its_settings_and_no_other():
    rest = {"smoothing": 0.0, "order": "simultaneous", "attack_loss": "ce"}
    with pytest.raises(ValueError, match="fast_at needs inner_step, attacker_start"):
        make_method("fast_at", **rest)
    with pytest.raises(ValueError, match="setting of fgsm 'clean_mux': did you mean 'clean_mix'"):
        make_method("fgsm", clean_mux=True, **rest)
    with pytest.raises(ValueError, match="grad_l2l needs attacker"):
        make_method("grad_l2l", attacker_start="zero", grad_norm="none", **rest)


@pytest.mark.parametrize(
    "name, changes, line",
    [
        ("grad_l2l", {"order": "simultanous"}, "order 'simultanous': did you mean 'simultaneous'"),
        ("grad_l2l", {"grad_norm": "batchmax"}, "grad_norm 'batchmax': did you mean 'batch_max'"),
        ("grad_l2l", {"attacker_start": "zeros"}, "start 'zeros': did you mean 'zero'"),
        ("pgm", {"attacker_start": "unifrom"}, "start 'unifrom': did you mean 'uniform'"),
        ("pgm", {"attack_loss": "cross"}, "unknown attack_loss 'cross'"),
        ("fast_bat", {"bat_point": "nspgd"}, "'nspgd': did you mean 'ns_pgd'"),
        ("fast_bat", {"bat_mixed": "x"}, "unknown point of the mixed derivative 'x'"),
        ("rnn_adv", {"rnn_input": "signlog"}, "'signlog': did you mean 'sign_log'"),
        ("rnn_adv", {"rnn_weights": "one"}, "'one': did you mean 'ones'"),
        ("apgd10", {"attacker_start": "zeros"}, "did you mean 'zero'"),
    ],
)
def test_a_misspelt_word_is_refused_where_the_method_is_made(name, changes, line):
    with pytest.raises(ValueError, match=line):
        method_of(name, **changes)


@pytest.mark.parametrize("changes, line", [({"craft_bn": "upd"}, "craft_bn 'upd': .*'update'")])
def test_a_misspelt_word_is_refused_where_the_step_is_made(changes, line):
    f, _, _ = net()
    with pytest.raises(ValueError, match=line):
        make_step(f, method_of("pgm"), SGD, SGD, eps=EPS, **changes)


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"eps": 8.0}, "8 means 8 / 255"),
        ({"eps": "8/255"}, "is text"),
        ({"eps": -0.1}, "above 0"),
        ({"phi_steps": 0}, "phi_steps=0 must be a whole number above 0"),
        ({"accumulate": 0}, "accumulate=0 must be a whole number above 0"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 must lie in"),
    ],
)
def test_a_number_that_cannot_be_is_refused_where_the_step_is_made(changes, line):
    f, _, _ = net()
    method = method_of("grad_l2l", order="alternating")
    with pytest.raises(ValueError, match=line):
        make_step(f, method, SGD, SGD, **({"eps": EPS} | changes))


@pytest.mark.parametrize(
    "name, changes",
    [
        ("pgm", {"attacker_start": "zero"}),
        ("grad_l2l", {"attacker_start": "zero"}),
        ("trades", {"attacker_start": "zero"}),
        ("fgsm", {}),
        ("grad_align", {}),
        ("n_fgsm", {"noise": 0.0}),
        ("fast_bat", {"bat_point": "fgsm"}),
        ("fast_bat", {"bat_point": "ns_pgd_zero"}),
    ],
)
def test_kl_is_refused_where_the_first_gradient_is_taken_at_x(name, changes):
    with pytest.raises(ValueError, match="'kl' has no gradient at x itself, where .*: take "):
        method_of(name, attack_loss="kl", **changes)


def test_kl_is_played_from_elsewhere():
    for name, changes in [
        ("pgm", {"attacker_start": "gaussian"}),
        ("n_fgsm", {"noise": 1.0}),
        ("fast_bat", {"bat_point": "ns_pgd"}),
    ]:
        method_of(name, attack_loss="kl", **changes)


def test_takers_lists_the_methods_of_a_setting():
    assert takers("noise") == ["n_fgsm"]
    assert "pgm" in takers("inner_steps") and "plain" not in takers("inner_steps")
