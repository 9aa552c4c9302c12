"""Claims about every row of METHODS; a new row is checked without being told."""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from games import EPS, SETTINGS, SGD, SmoothAttacker, images, keys, method_of, seen_by, tiny_net
from games import solve as solve_once
from l2ljax.ball import STARTS, Radii
from l2ljax.bilevel import init_state, make_step
from l2ljax.errors import InputError
from l2ljax.losses import ATTACK_LOSSES, adversarial
from l2ljax.methods import METHODS, check_method, make_method, method_settings, takers
from l2ljax.solvers import pgm
from l2ljax.solvers.implicit import MIXED_AT, POINTS
from l2ljax.solvers.recurrent import PREPROCESS, WEIGHTS
from l2ljax.types import Method, without_statistics


@functools.cache
def net():
    return tiny_net()


@functools.cache
def compiled(name):
    """The inner problem of a row, once for all tests: (phi, x, eps, keys) -> Inner."""
    f, theta, stats = net()
    method, (x, y) = method_of(name, SmoothAttacker()), images()
    phi, phi_stats = method.solver.init(jax.random.key(2), x)

    @jax.jit
    def run(x, eps, keys):
        ell = method.attack_loss(seen_by(f, "batch", stats), theta, stats, x, y)
        return solve_once(method.solver, ell, x, y, theta, phi, phi_stats, eps=eps, keys=keys)

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
    method, (x, y) = method_of(name, SmoothAttacker()), images()
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
    assert any(phi) == method.learns == ("order" in method_settings(name))
    assert ("phi/grad_norm" in metrics) == method.learns
    assert all(bool(jnp.isfinite(value)) for value in metrics.values())


def test_a_method_wants_each_of_its_settings_and_no_other():
    rest = {"label_smoothing": 0.0, "attack_loss": "ce"}
    cases = {
        "did you mean 'grad_l2l'": lambda: make_method("grad_12l", **rest),
        "fast_at needs inner_step, attacker_start": lambda: make_method("fast_at", **rest),
        "setting of fgsm 'clean_mux': did you mean 'clean_mix'": lambda: make_method(
            "fgsm", clean_mux=True, **rest
        ),
        "setting of plain 'order'": lambda: make_method("plain", order="simultaneous"),
        "grad_l2l needs attacker": lambda: make_method(
            "grad_l2l", order="simultaneous", attacker_start="zero", grad_norm="none", **rest
        ),
        "apgd10 has no network g: leave attacker out": lambda: make_method(
            "apgd10", attacker=object(), attacker_start="zero", **rest
        ),
        "fgsm needs clean_mix": lambda: make_method("fgsm", clean_mix=None, **rest),
    }
    for line, call in cases.items():
        with pytest.raises(InputError, match=line):
            call()


def test_a_word_or_a_number_that_cannot_be_is_refused_where_the_method_is_made():
    cases = [
        ("grad_l2l", {"order": "simultanous"}, "unknown order 'simultanous': did you mean 'simult"),
        ("grad_l2l", {"grad_norm": "batchmax"}, "unknown grad_norm .*did you mean 'batch_max'"),
        ("pgm", {"attacker_start": "unifrom"}, "unknown attacker_start .*did you mean 'uniform'"),
        ("pgm", {"attack_loss": "cross"}, "unknown attack_loss 'cross'"),
        ("fast_bat", {"bat_point": "nspgd"}, "unknown bat_point .*did you mean 'ns_pgd'"),
        ("fast_bat", {"bat_mixed": "x"}, "unknown bat_mixed 'x'"),
        ("rnn_adv", {"rnn_input": "signlog"}, "unknown rnn_input .*did you mean 'sign_log'"),
        ("rnn_adv", {"rnn_weights": "one"}, "unknown rnn_weights .*did you mean 'ones'"),
        ("rnn_adv", {"rnn_bound": 0}, "^rnn_bound=0 must be positive"),
        ("rnn_adv", {"rnn_hidden": 2.5}, "^rnn_hidden: 2.5 is no whole number"),
        ("pgm", {"inner_step": "eps/4"}, "^inner_step: 'eps/4' is no step such as"),
        ("fast_bat", {"bat_step": "1eps"}, "^bat_step: '1eps' is no number such as"),
        ("trades", {"trades_beta": "six"}, "^trades_beta: 'six' is no number"),
        ("n_fgsm", {"noise": -1.0}, "^noise=-1.0 must not be negative"),
        ("grad_l2l_interp", {"interp_label": 1.5}, r"^interp_label=1.5 must lie in \[0, 1\]"),
        ("plain", {"label_smoothing": True}, "^label_smoothing: True is no number"),
    ]
    for name, changes, line in cases:
        with pytest.raises(InputError, match=line):
            method_of(name, **changes)


def test_the_words_of_a_setting_are_those_of_the_table_it_is_looked_up_in():
    tables = {
        "attacker_start": STARTS,
        "attack_loss": ATTACK_LOSSES,
        "bat_point": POINTS,
        "bat_mixed": MIXED_AT,
        "rnn_input": PREPROCESS,
        "rnn_weights": WEIGHTS,
    }
    for setting, table in tables.items():
        for name in takers(setting):
            assert method_settings(name)[setting].kind == tuple(table), (name, setting)


def test_a_number_may_be_a_text_and_a_step_a_multiple_of_the_radius():
    x, y = images(n=2, size=4, classes=3)
    ell = without_statistics(lambda theta, x: x.sum((1, 2, 3)))
    for text, number in (("10/255", 10 / 255), ("0.5eps", EPS / 2), (Radii(0.5), EPS / 2)):
        deltas = [
            solve_once(method_of("fast_at", inner_step=step).solver, ell, x, y).delta
            for step in (text, number)
        ]
        np.testing.assert_array_equal(*deltas)


def test_methods_that_share_a_setting_declare_the_same_one():
    shown = {}
    for name in METHODS:
        for setting in method_settings(name).values():
            assert shown.setdefault(setting.name, setting) == setting, (name, setting.name)
    assert set(shown) == set(SETTINGS)
    docs = [METHODS[name].__doc__.splitlines()[0] for name in METHODS]
    assert len(set(docs)) == len(METHODS)


def momentum_pgm(*, momentum: Annotated[float, "of the steps", "[0, 1)"] = 0.9) -> Method:
    """A method of one's own."""
    return Method(pgm(2, momentum, "zero"), ATTACK_LOSSES["ce"], adversarial(0.0))


def test_a_function_of_ones_own_is_a_method_with_the_same_checks():
    assert check_method(momentum_pgm) is momentum_pgm
    assert isinstance(make_method(momentum_pgm), Method)
    with pytest.raises(InputError, match=r"^momentum=1.0 must lie in \[0, 1\)"):
        make_method(momentum_pgm, momentum=1.0)
    with pytest.raises(InputError, match="setting of momentum_pgm 'moment': did you mean"):
        make_method(momentum_pgm, moment=1.0)

    def positional(steps: int) -> Method:
        """A method."""

    def bare(*, steps) -> Method:
        """A method."""

    def silent(*, steps: Annotated[int, "steps"]) -> Method: ...

    def other(*, inner_steps: Annotated[str, "steps"]) -> Method:
        """A method."""

    def nothing() -> Method:
        """A method."""

    def keyword(*, attacker) -> Method:
        """A method."""

    wrong = {
        "positional: steps: int must be a keyword-only setting": positional,
        "bare: the keyword steps must say what it is": bare,
        "silent has no docstring": silent,
        "other: the setting inner_steps is of another type in pgm": other,
        "nothing returns a NoneType and no Method": nothing,
        "keyword: attacker must be .*positional": keyword,
        "Method is no function": Method,
        "int is no function": 3,
    }
    for line, function in wrong.items():
        with pytest.raises(InputError, match=line):
            make_method(function)


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
