from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from games import EPS, SmoothAttacker, SmoothClassifier, images, keys, method_of, seen_by
from games import solve as solve_once
from l2ljax import solvers
from l2ljax.apply import functional, initialise
from l2ljax.attacker_input import (
    GRAD_NORMS,
    image_alone,
    image_and_gradient,
    input_gradient,
    normalise,
)
from l2ljax.ball import box, start_of
from l2ljax.devices import AXIS
from l2ljax.losses import ATTACK_LOSSES
from l2ljax.models import CoordinateLSTM, make_attacker

A = image_and_gradient("batch_max")
KEY = jax.random.key(2)


def game(solver, x, y, seed=1):
    net = SmoothClassifier()
    theta, _ = initialise(net, jax.random.key(seed), x)
    f = functional(net)
    ell = ATTACK_LOSSES["ce"](seen_by(f), theta, {}, x, y)
    phi, phi_stats = solver.init(jax.random.key(seed + 1), x)

    def delta(theta, phi, eps=EPS, train=False):
        return solve_once(solver, ell, x, y, theta, phi, phi_stats, eps=eps, train=train)

    return theta, phi, ell, delta


def test_fgsm_equals_one_pgm_step_of_size_eps_from_zero():
    x, y = images(classes=3)
    theta, phi, _, fgsm = game(solvers.fgsm(), x, y)
    pgm = game(solvers.pgm(1, EPS, "zero"), x, y)[3]
    np.testing.assert_array_equal(fgsm(theta, phi).delta, pgm(theta, {}).delta)


def test_pgm_matches_a_numpy_loop():
    x, y = images(classes=3)
    theta, phi, ell, pgm = game(solvers.pgm(4, 0.04, "zero"), x, y)
    delta = np.zeros(x.shape, np.float32)
    for _ in range(4):
        u = np.asarray(jax.grad(lambda z: ell(theta, z).sum())(x + delta))
        delta = np.clip(delta + np.float32(0.04) * np.sign(u), -EPS, EPS)
        delta = np.clip(x + delta, 0, 1) - x
    np.testing.assert_allclose(pgm(theta, phi).delta, delta, atol=1e-6)


def test_pgm_raises_the_loss_it_climbs():
    x, y = images(classes=3)
    theta, phi, ell, pgm = game(solvers.pgm(5, 0.04, "zero"), x, y)
    assert bool((ell(theta, x + pgm(theta, phi).delta) > ell(theta, x)).all())


def test_one_step_of_l2l_is_the_papers_formula_to_the_last_bit():
    """delta = box(eps g(A(x + start))), for delta and for the gradient by phi."""
    attacker, (x, y) = make_attacker("two_layer", 1, width=1 / 16), images(n=2, classes=3)
    f, (theta, _) = functional(SmoothClassifier()), initialise(SmoothClassifier(), KEY, x)
    ell, g = ATTACK_LOSSES["ce"](seen_by(f), theta, {}, x, y), functional(attacker)
    for a_of, start, train in ((A, "gaussian", True), (image_alone, "zero", False)):
        solver = solvers.l2l(attacker, a_of, steps=1, start=start)
        phi, phi_stats = solver.init(KEY, x)

        def solved(phi, solver=solver, phi_stats=phi_stats, train=train):
            inner = solve_once(solver, ell, x, y, theta, phi, phi_stats, train=train)
            return (inner.delta * x).sum(), (inner.delta, inner.phi_stats)

        def written(phi, a_of=a_of, start=start, phi_stats=phi_stats, train=train):
            a, _ = a_of(x + start_of(start)(keys(2), x, EPS), y, theta, ell)
            out, moved = g(phi, phi_stats, a, "update" if train else "eval")
            delta = box(x, EPS * out)
            return (delta * x).sum(), (delta, moved)

        # Operation by operation, so that "equal" means equal to the last bit.
        with jax.disable_jit():
            found, expected = (jax.grad(total, has_aux=True)(phi) for total in (solved, written))
        jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), found[0], expected[0])


RNN = {"preprocess": "sign_log", "weights": "ones", "learned_step": True, "bound": 0.5}
SOLVERS = {
    "none": (solvers.none(), ""),
    "fgsm": (solvers.fgsm(), ""),
    "pgm": (solvers.pgm(2, 0.04, "uniform"), ""),
    "n_fgsm": (solvers.n_fgsm(1.0, EPS), ""),
    "apgd": (solvers.apgd(3, "uniform"), ""),
    "l2l": (solvers.l2l(SmoothAttacker(), A, steps=2, start="zero"), "phi"),
    "kstep_l2l": (
        solvers.kstep_l2l(SmoothAttacker(), A, steps=2, step_size=0.04, start="zero"),
        "phi",
    ),
    "interp": (solvers.interp(SmoothAttacker(), A, steps=2), ""),
    "rnn": (solvers.rnn(CoordinateLSTM(4), steps=2, start="uniform", remat=False, **RNN), ""),
    "fast_bat": (solvers.fast_bat("ns_pgd", 0.08, 10.0, "z"), "theta"),
}
"""Every solver, and the player whose derivative passes through its delta."""


def test_delta_carries_the_derivative_of_the_player_that_its_solver_lets_through():
    assert set(SOLVERS) == set(solvers.__all__)
    x, y = images(n=4, size=4, classes=3)
    for name, (solver, expected) in SOLVERS.items():
        theta, phi, _, delta = game(solver, x, y)

        def total(theta, phi, delta=delta):
            return (delta(theta, phi).delta * x).sum()

        slopes = jax.jit(jax.grad(total, (0, 1)))(theta, phi)
        reached = [
            player
            for player, slope in zip(("theta", "phi"), slopes, strict=True)
            if any(bool(leaf.any()) for leaf in jax.tree.leaves(slope))
        ]
        assert "".join(reached) == expected, name


def test_kstep_takes_small_steps_and_projects_once():
    x, y = images(classes=3)
    solver = solvers.kstep_l2l(SmoothAttacker(), A, steps=3, step_size=0.05, start="zero")
    theta, phi, ell, delta = game(solver, x, y)
    g = functional(SmoothAttacker())
    point = x
    for _ in range(3):
        a, _ = A(point, y, theta, ell)
        point = jnp.clip(point + 0.05 * g(phi, {}, a, "eval")[0], 0, 1)
    expected = jnp.clip(point - x, -EPS, EPS)
    np.testing.assert_allclose(delta(theta, phi).delta, expected, atol=1e-6)


def test_two_step_follows_the_papers_formula():
    # Black and white pixels too: there the raw outputs are summed, and only the image is cut.
    x, y = images(classes=3)
    x = jnp.round(x)
    solver = solvers.l2l(SmoothAttacker(), A, steps=2, start="zero")
    theta, phi, ell, delta = game(solver, x, y)
    phi = jax.tree.map(lambda w: 4 * w, phi)
    g = functional(SmoothAttacker())
    first = EPS * g(phi, {}, A(x, y, theta, ell)[0], "eval")[0]
    second = EPS * g(phi, {}, A(jnp.clip(x + first, 0, 1), y, theta, ell)[0], "eval")[0]
    expected = jnp.clip(x + jnp.clip(first + second, -EPS, EPS), 0, 1) - x
    np.testing.assert_allclose(delta(theta, phi).delta, expected, atol=1e-6)
    cut = jnp.clip(x + first, 0, 1) - x
    within = jnp.clip(x + jnp.clip(cut + second, -EPS, EPS), 0, 1) - x
    assert float(jnp.abs(expected - within).max()) > 0.1 * EPS


def test_the_attackers_statistics_see_every_inner_call_in_training_only():
    attacker, (x, y) = make_attacker("two_layer", 1, width=1 / 16), images()
    solver = solvers.l2l(attacker, A, steps=2, start="zero")
    theta, phi, _, delta = game(solver, x, y % 3)
    before = solver.init(jax.random.key(2), x)[1]
    frozen = delta(theta, phi, train=False).phi_stats
    moved = delta(theta, phi, train=True).phi_stats
    same = [
        bool((a == b).all()) for a, b in zip(*map(jax.tree.leaves, (before, frozen)), strict=True)
    ]
    changed = [
        bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (before, moved)), strict=True)
    ]
    assert all(same) and all(changed)


def test_input_gradient_is_per_example_and_constant():
    x, y = images(classes=3)
    theta, _, ell, _ = game(solvers.none(), x, y)
    u, _ = input_gradient(ell, theta, x)
    alone = jax.grad(lambda z: ell(theta, jnp.concatenate([z, x[1:]]))[0])(x[:1])
    np.testing.assert_allclose(u[:1], alone, atol=1e-7)

    def through(theta):
        return (input_gradient(ell, theta, x)[0] ** 2).sum()

    assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(jax.grad(through)(theta)))


def test_grad_norms():
    u = jnp.array([[[[1.0], [-2.0]]], [[[0.0], [0.5]]]])
    expected = {
        "batch_max": [1 / 2, -1, 0, 1 / 4],
        "per_example_max": [1 / 2, -1, 0, 1],
        "sign": [1, -1, 0, 1],
        "none": [1, -2, 0, 1 / 2],
    }
    assert set(expected) == set(GRAD_NORMS)
    for name, values in expected.items():
        np.testing.assert_allclose(normalise(u, name).ravel(), values)
        assert not np.isnan(normalise(0 * u, name)).any(), f"{name}: a zero gradient"


def test_batch_max_is_global_over_devices():
    u = jnp.array([[[[1.0]]], [[[4.0]]]])
    split = jax.vmap(lambda u: normalise(u[None], "batch_max"), axis_name=AXIS)(u)
    np.testing.assert_allclose(split.ravel(), [0.25, 1.0])


@pytest.mark.parametrize("name", ["grad_l2l", "two_step_l2l", "multistep_l2l", "kstep_l2l"])
def test_every_attack_loss_drives_every_gradient_attacker(name):
    x, y = images(classes=3)
    method = method_of(name, attacker=SmoothAttacker())
    deltas = []
    for loss in ("ce", "kl", "margin"):  # the hinge's gradient is the margin's where it has one
        net = SmoothClassifier()
        theta, _ = initialise(net, jax.random.key(1), x)
        f = functional(net)
        ell = ATTACK_LOSSES[loss](seen_by(f), theta, {}, x + 0.01, y)
        phi, stats = method.solver.init(jax.random.key(2), x)
        inner = solve_once(method.solver, ell, x, y, theta, phi, stats)
        deltas.append(np.asarray(inner.delta))
    assert len({delta.tobytes() for delta in deltas}) == len(deltas)
