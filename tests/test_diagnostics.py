"""What the learned attacker does, on classifiers and attackers whose answer is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2ljax.attacker_input import input_gradient
from l2ljax.attacks import pgd
from l2ljax.losses import ATTACK_LOSSES, adversarial
from l2ljax.runs.diagnostics import make_diagnose
from l2ljax.types import Inner, Method, Solver, State, no_phi

EPS = 0.1
KEY = jax.random.key(0)
X = jax.random.uniform(jax.random.key(1), (12, 4, 4, 1), minval=0.3, maxval=0.7)
W = jax.random.normal(jax.random.key(2), (16, 2)) / 4
MIX = jax.random.normal(jax.random.key(3), (2, 2))
Y = jnp.arange(12) % 2
NAMES = ("adequacy", "mean_abs_delta", "at_bound", "cosine_pgm10", "sign_agreement", "saturation")


def linear(theta, stats, x, mode, rng=None):
    assert mode == "eval"
    return x.reshape(len(x), -1) @ theta, stats


def diagnosis(delta_of, theta=W, eps=EPS, f=linear):
    """The metrics of the attacker whose output in [-1, 1] is delta_of(u)."""

    def solve(problem, theta, phi, phi_stats):
        assert problem.keys.shape == (len(problem.x),) and problem.train is False
        out = delta_of(input_gradient(problem.ell, theta, problem.x)[0])
        return Inner(problem.eps * out, aux={"tanh": out})

    return measure(Solver(no_phi, solve), theta, eps, f)


def measure(solver, theta=W, eps=EPS, f=linear):
    method = Method(solver, ATTACK_LOSSES["ce"], adversarial(0.0), True, "simultaneous")
    step = jnp.zeros((), jnp.int32)
    state = State(step, step, theta, {}, (), {}, {}, (), {}, {})
    values = make_diagnose(f, method)(KEY, state, X, Y, eps)
    assert set(values) == {f"attacker/{name}" for name in NAMES}
    assert all(isinstance(v, float) and math.isfinite(v) for v in values.values()), values
    return {name: values[f"attacker/{name}"] for name in NAMES}


def test_an_attacker_that_is_fgsm():
    """Against two linear classes FGSM, PGM-10 and PGD-20 are the same perturbation."""
    for name, value in diagnosis(jnp.sign).items():
        assert value == pytest.approx(1.0, abs=1e-5), name


def test_an_attacker_that_does_nothing():
    for name, value in diagnosis(jnp.zeros_like).items():
        assert value == pytest.approx(0, abs=1e-5), name


def test_an_attacker_that_goes_down_the_gradient():
    measured = diagnosis(lambda u: -jnp.sign(u))
    assert measured["adequacy"] < 0
    assert measured["cosine_pgm10"] == pytest.approx(-1, abs=1e-5)
    assert measured["sign_agreement"] == 0
    assert measured["at_bound"] == measured["saturation"] == 1


def test_shares_and_means_of_an_attacker_of_half_strength():
    measured = diagnosis(lambda u: 0.5 * jnp.sign(u))
    assert 0 < measured["adequacy"] < 1
    assert measured["mean_abs_delta"] == pytest.approx(0.5, abs=1e-5)
    assert measured["at_bound"] == measured["saturation"] == 0
    assert measured["sign_agreement"] == 1
    assert measured["cosine_pgm10"] == pytest.approx(1, abs=1e-5)


def test_half_the_pixels_at_the_bound():
    half = jnp.zeros((4, 4, 1)).at[:2].set(1.0)
    measured = diagnosis(lambda u: half * jnp.sign(u))
    for name in ("mean_abs_delta", "at_bound", "sign_agreement", "saturation"):
        assert measured[name] == pytest.approx(0.5, abs=1e-5), name
    assert measured["cosine_pgm10"] == pytest.approx(math.sqrt(0.5), abs=1e-5)


def test_an_attacker_that_is_pgd20_adds_what_pgd20_adds():
    def bent(theta, stats, x, mode, rng=None):
        return jnp.tanh(5 * (x.reshape(len(x), -1) - 0.5) @ theta) @ MIX, stats

    strength = {"steps": 20, "step_size": EPS / 8, "start": "zero", "loss": "ce"}
    delta = pgd(KEY, lambda x: bent(W, {}, x, "eval")[0], X, Y, eps=EPS, **strength) - X

    def solve(problem, theta, phi, phi_stats):
        return Inner(delta, aux={"tanh": delta / problem.eps})

    measured = measure(Solver(no_phi, solve), f=bent)
    assert measured["adequacy"] == pytest.approx(1, abs=1e-4)
    assert measured["cosine_pgm10"] > 0.9


@pytest.mark.parametrize("delta_of", [jnp.sign, jnp.ones_like, jnp.zeros_like])
def test_everything_is_finite_where_no_attack_changes_the_loss(delta_of):
    measured = diagnosis(delta_of, theta=jnp.zeros_like(W))
    assert abs(measured["adequacy"]) < 0.2
    assert measured["sign_agreement"] == measured["cosine_pgm10"] == 0


def test_rounding_is_not_taken_for_an_attack():
    """Gains of 1e-8 are rounding in float32; their quotient means nothing and stays small."""
    assert abs(diagnosis(jnp.ones_like, theta=1e-8 * W)["adequacy"]) < 1


def test_a_tiny_gradient_has_a_sign_too():
    measured = diagnosis(lambda u: 1e-20 * jnp.sign(u), theta=1e-24 * W)
    assert measured["sign_agreement"] == 1


def test_the_share_of_the_ball_does_not_depend_on_its_size():
    small, large = diagnosis(jnp.tanh, eps=0.01), diagnosis(jnp.tanh, eps=0.2)
    for name in ("mean_abs_delta", "at_bound", "sign_agreement", "saturation"):
        np.testing.assert_allclose(small[name], large[name], rtol=1e-5)


def test_a_solver_that_does_not_tell_its_tanh_has_the_other_measures():
    def solve(problem, theta, phi, phi_stats):
        return Inner(problem.eps * jnp.sign(input_gradient(problem.ell, theta, problem.x)[0]))

    method = Method(
        Solver(no_phi, solve), ATTACK_LOSSES["ce"], adversarial(0.0), True, "simultaneous"
    )
    step = jnp.zeros((), jnp.int32)
    state = State(step, step, W, {}, (), {}, {}, (), {}, {})
    values = make_diagnose(linear, method)(KEY, state, X, Y, EPS)
    left_out = {"attacker/sign_agreement", "attacker/saturation"}
    assert set(values) == {f"attacker/{name}" for name in NAMES} - left_out
    assert values["attacker/adequacy"] == pytest.approx(1.0, abs=1e-5)
