"""The examples run, do what they say, and stay short enough to read."""

import ast
import importlib
import json
import pathlib
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from games import EPS, SGD, SmoothAttacker, SmoothClassifier, images, seen_by, solve
from l2ljax import Method, Problem, functional, init_state, initialise, make_step
from l2ljax.attacker_input import example_input, image_and_gradient
from l2ljax.ball import per_image
from l2ljax.commands import train
from l2ljax.losses import ATTACK_LOSSES, adversarial
from l2ljax.solvers import l2l
from l2ljax.types import without_statistics

FOLDER = pathlib.Path(__file__).parent.parent / "examples"
PROGRAMS = (
    "evaluate_anything",
    "many_seeds",
    "new_attacker",
    "new_attacker_input",
    "new_objective",
    "own_objects",
    "train_from_python",
)
PLUG_INS = ("momentum_l2l", "own_attack", "own_data", "own_net", "own_recipe")
NAMES = PROGRAMS + PLUG_INS


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
    doc = ast.get_docstring(ast.parse(text)) or ""
    if name in PROGRAMS:
        assert f"\n    python examples/{name}.py\n" in doc
    else:
        assert re.search(rf"\n    python experiments/train.py .*=(\w+,)?examples/{name}.py:", doc)


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


def test_the_call_trains_and_load_opens_what_it_wrote(tmp_path):
    found = importlib.import_module("train_from_python").main(tmp_path / "run", epochs=2)
    assert set(found) == {"best, clean", "best, pgm10", "last_ema, clean", "last_ema, phi"}
    assert found["best, pgm10"] < found["best, clean"]
    assert found["last_ema, phi"] < found["last_ema, clean"]


def test_own_objects_become_more_robust_and_the_callback_ends_the_run():
    found = importlib.import_module("own_objects").main(epochs=14)
    plain, pgm = (run.summary["test"]["best"]["pgm10"]["accuracy"] for run in found.values())
    assert pgm > plain + 0.05
    assert found["plain"].summary["stopped_by"] == "callback" and found["plain"].workdir is None


def test_the_own_models_batch_norm_and_dropout_follow_train():
    own = importlib.import_module("own_objects")
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


def test_anything_is_evaluated():
    accuracy = importlib.import_module("evaluate_anything").main(images=60).accuracy
    assert list(accuracy) == ["clean", "fgsm", "pgm10", "apgd-ce", "shift"]
    assert accuracy["pgm10"] <= accuracy["fgsm"] < accuracy["clean"]


def test_many_seeds_are_so_many_different_nets():
    shares = importlib.import_module("many_seeds").main(seeds=(0, 1, 2), epochs=4)
    assert shares.shape == (3,) and min(shares) > 0.3 and len({float(s) for s in shares}) == 3


def said(name, flag):
    """The words of the command in a plug-in's docstring that has this flag."""
    doc = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""
    line = re.search(rf"^    python experiments/train.py (.*--{flag}=.*)$", doc, re.MULTILINE)
    assert line is not None, (name, flag)
    return line[1].split()


@pytest.mark.parametrize("objects", ["linen", "nnx"])
def test_plug_ins_are_used_as_their_docstrings_say(objects, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(FOLDER.parent)
    words = said("own_recipe", "recipe") if objects == "linen" else []
    if objects == "linen":
        words += [*said("momentum_l2l", "momentum"), *said("own_net", "units")]
        words += [*said("own_data", "contrast"), *said("own_attack", "final_attacks")]
    else:
        words += [*said("own_recipe", "method"), *said("own_net", "hidden")]
        words += [w.replace("blobs", "stripes") for w in said("own_data", "contrast")[:1]]
        words += said("own_attack", "final_attacks")
    ways = ["--epochs=1", "--batch_size=256", "--noplots", "--notensorboard", "--diagnose=0"]
    assert train.main([*words, *ways, f"--workdir={tmp_path / 'run'}"]) == 0, capsys.readouterr()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    shares = {k: r["accuracy"] for k, r in summary["test"]["last"].items()}
    assert 0 < shares["own_attack.py:random_corners"] <= shares["clean"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    files = {"own_recipe.py", "own_net.py", "own_data.py"}
    assert files <= set(config["plugins"])
    assert config["units" if objects == "linen" else "hidden"] == 32
    assert config["eps"] == "0.1"
    if objects == "linen":
        assert (config["momentum"], config["contrast"]) == (0.9, 0.5)
    else:
        assert config["inner_step"] == "0.5eps"


def test_momentum_carries_the_first_move_on():
    own = importlib.import_module("momentum_l2l")
    x, y = images()

    class Constant(nn.Module):
        @nn.compact
        def __call__(self, a):
            return jnp.full(
                a.shape[:-1] + x.shape[-1:], 0.2 * self.param("one", nn.initializers.ones, ())
            )

    moved = {}
    for momentum in (0.0, 0.5):
        solver = own.momentum_steps(Constant(), steps=2, momentum=momentum)
        phi, phi_stats = solver.init(jax.random.key(0), x)
        ell = without_statistics(lambda theta, x: x.sum(axis=(1, 2, 3)))
        problem = Problem(
            ell, 0.5 * jnp.ones_like(x), y, 0.1, per_image(jax.random.key(1), len(x)), True
        )
        moved[momentum] = float(solver.solve(problem, {}, phi, phi_stats).delta.mean())
    np.testing.assert_allclose([moved[0.0], moved[0.5]], [0.04, 0.05], rtol=1e-5)
