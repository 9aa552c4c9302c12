"""The examples run, do what they say, and stay short enough to read."""

import ast
import importlib
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from games import EPS, SGD, SmoothAttacker, SmoothClassifier, images, seen_by, solve
from l2ljax import Method, functional, init_state, initialise, make_step
from l2ljax.attacker_input import example_input, image_and_gradient
from l2ljax.losses import ATTACK_LOSSES, adversarial
from l2ljax.solvers import l2l

FOLDER = pathlib.Path(__file__).parent.parent / "examples"
NAMES = ("new_attacker", "new_attacker_input", "new_objective", "own_model")


def test_every_example_is_tested():
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(NAMES)


@pytest.fixture(scope="module")
def net():
    """(f, theta, stats, x, y) of a small smooth classifier of three classes."""
    x, y = images(classes=3)
    theta, stats = initialise(SmoothClassifier(), jax.random.key(1), x)
    return functional(SmoothClassifier()), theta, stats, x, y


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_opens_with_its_command(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 60
    assert f"\n    python examples/{name}.py\n" in (ast.get_docstring(ast.parse(text)) or "")


def test_a_new_attacker_learns_to_raise_the_loss():
    found = importlib.import_module("new_attacker").main(steps=100)
    assert found["after"] > 1.5 * found["clean"]
    assert found["after"] > 1.5 * found["before"]


def test_an_example_runs_as_the_command_in_its_docstring():
    command = [sys.executable, "-W", "error", str(FOLDER / "new_attacker.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("test loss: {'clean': ")


def test_training_against_an_attacker_that_looks_ahead_beats_plain_training():
    found = importlib.import_module("new_attacker_input").main(steps=120)
    assert found["look_ahead"] > found["plain"] + 0.05
    assert found["grad_l2l"] > found["plain"] + 0.05


def test_the_new_input_is_a_constant_of_three_parts(net):
    look_ahead = importlib.import_module("new_attacker_input").look_ahead(EPS)
    f, theta, stats, x, y = net

    @jax.jit
    def inputs(theta):
        ell = ATTACK_LOSSES["ce"](seen_by(f, "eval", stats), theta, stats, x, y)
        old, _ = image_and_gradient("per_example_max")(x, y, theta, ell)
        return old, look_ahead(x, y, theta, ell)[0]

    assert example_input(look_ahead, x).shape == (*x.shape[:-1], 3)
    old, new = inputs(theta)
    np.testing.assert_array_equal(new[..., :2], old)
    assert jnp.abs(new[..., 2] - new[..., 1]).max() > 1e-3
    slope = jax.jit(jax.grad(lambda theta: inputs(theta)[1].sum()))(theta)
    assert all(not leaf.any() for leaf in jax.tree.leaves(slope))


def test_an_attacker_that_pays_uses_less_of_the_ball():
    found = importlib.import_module("new_objective").main(steps=100)
    free, priced = found[0.0], found[10.0]
    assert priced["delta/mean_abs"] < 0.7 * free["delta/mean_abs"]
    assert 0 < free["delta/mean_abs"] <= 1


def test_the_new_objective_moves_phi_its_way_and_theta_as_before(net):
    frugal = importlib.import_module("new_objective").frugal
    f, theta, stats, x, y = net
    solver = l2l(SmoothAttacker(), image_and_gradient("per_example_max"), steps=1, start="zero")
    after = {}
    for name, one in {"old": solver, "new": frugal(solver, price=3.0)}.items():
        method = Method(one, ATTACK_LOSSES["margin"], adversarial(0.0), True, "simultaneous")
        state = init_state(jax.random.key(2), theta, stats, method, SGD, SGD, x)
        step = jax.jit(make_step(f, method, SGD, SGD, eps=EPS))
        after[name], _ = step(state, (x, y), jax.random.key(0))

    def objective(phi):
        ell = ATTACK_LOSSES["margin"](seen_by(f, "batch", stats), theta, stats, x, y)
        delta = solve(solver, ell, x, y, theta, phi, train=True).delta
        margin = ell(theta, x + delta).mean()
        return margin - 3.0 * jnp.abs(delta).mean() / EPS

    gradient = jax.jit(jax.grad(objective))(state.phi)
    expected = jax.tree.map(lambda p, d: p + 0.1 * d, state.phi, gradient)
    for a, b in zip(*map(jax.tree.leaves, (after["new"].phi, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (after["new"].theta, after["old"].theta)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_an_own_model_becomes_more_robust_with_and_without_batch_norm_and_dropout():
    found = importlib.import_module("own_model").main(steps=100)
    models = ("dense", "dropout")
    assert set(found) == {f"{model}, {way}" for model in models for way in ("plain", "pgm")}
    for model in models:
        for split in ("train", "test"):
            plain, robust = (found[f"{model}, {way}"][split] for way in ("plain", "pgm"))
            assert robust > plain + 0.05


def test_the_own_models_batch_norm_and_dropout_follow_train():
    own = importlib.import_module("own_model")
    x, _ = images()
    theta, stats = initialise(own.DropoutNet(), jax.random.key(0), x)
    f = functional(own.DropoutNet())
    kept = f(theta, stats, x, "batch", jax.random.key(1))[0]
    assert (kept != f(theta, stats, x, "batch", jax.random.key(2))[0]).any()
    assert (kept != f(theta, stats, x, "batch")[0]).any()
    fixed = f(theta, stats, x, "eval", jax.random.key(1))[0]
    np.testing.assert_array_equal(fixed, f(theta, stats, x, "eval", jax.random.key(2))[0])
    after = f(theta, stats, x, "update", jax.random.key(1))[1]["batch_stats"]["BatchNorm_0"]
    assert (after["mean"] != stats["batch_stats"]["BatchNorm_0"]["mean"]).any()
