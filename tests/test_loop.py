"""The loop of an attack: the same steps in Python and in one program, and no more than needed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from l2ljax.attacks.entrance import CHECK_EVERY, classifier, iterate

TRACES = []


class Count(NamedTuple):
    total: jax.Array
    steps: jax.Array


@jax.jit
def step(i, carry, f, gain):
    TRACES.append("step")
    return Count(carry.total + gain * f(carry.total) * i, carry.steps + 1)


def enough(carry):
    TRACES.append("done")
    return (carry.total > 100).all()


@jax.jit
def step_until(i, carry, f, gain):
    """A step that leaves what is finished as it is: where it stops is then no matter."""
    moved = step(i, carry, f, gain)
    return jax.tree.map(lambda a, b: jnp.where(enough(carry), a, b), carry, moved)


def grow(w, x):
    return w * x


def start():
    return Count(jnp.array([1.0, 2.0]), jnp.zeros((), jnp.int32))


def expected(first, steps, w=0.5, gain=2.0):
    total = np.array([1.0, 2.0])
    for i in range(first, steps):
        total = total + gain * w * total * i
    return total


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


@pytest.mark.parametrize("first, steps", [(0, 5), (2, 5), (3, 3), (0, 0)])
def test_both_loops_run_the_steps_from_first_on(backend, first, steps):
    out = iterate(step, start(), Partial(grow, 0.5), 2.0, first=first, steps=steps)
    assert out.steps == steps - first
    np.testing.assert_allclose(out.total, expected(first, steps), rtol=1e-6)


def test_two_halves_are_the_whole(backend):
    f = Partial(grow, 0.5)
    half = iterate(step, start(), f, 2.0, steps=3)
    np.testing.assert_allclose(
        iterate(step, half, f, 2.0, first=3, steps=6).total,
        iterate(step, start(), f, 2.0, steps=6).total,
    )


def test_done_stops_the_loop_early(backend):
    out = iterate(step, start(), Partial(grow, 1.0), 1.0, steps=10**6, done=enough)
    needed = 1 + next(i for i in range(99) if expected(0, i + 1, 1.0, 1.0).min() > 100)
    assert needed <= out.steps < needed + (CHECK_EVERY if backend == "cpu" else 1)


def test_both_loops_end_alike_where_finished_is_left_alone(monkeypatch):
    ends = []
    for name in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=name: name)
        ends.append(iterate(step_until, start(), Partial(grow, 1.0), 1.0, steps=99, done=enough))
    np.testing.assert_allclose(ends[0].total, ends[1].total, rtol=1e-6)
    assert ends[0].steps == ends[1].steps < 99


def test_a_loop_that_is_done_before_it_begins_runs_no_step(backend):
    carry = Count(jnp.array([200.0, 300.0]), jnp.zeros((), jnp.int32))
    assert iterate(step, carry, Partial(grow, 1.0), 1.0, steps=9, done=enough).steps == 0


def test_other_weights_and_other_counts_cost_no_trace(backend):
    def run(w, gain, steps):
        TRACES.clear()
        out = iterate(step, start(), Partial(grow, w), gain, steps=steps, done=enough)
        return len(TRACES), out

    run(0.25, 2.0, 3)
    (again, one), (third, other) = run(0.5, 2.0, 3), run(0.125, 3.0, 7)
    assert again == third == 0
    assert bool((one.total != other.total).any())


def test_settings_are_static_and_their_order_is_no_matter(backend):
    @jax.jit
    def halve(x):
        return x / 2

    def shaped(i, x, *, kind, times):
        assert isinstance(kind, str)
        for _ in range(times):
            x = halve(x) if kind == "halve" else x
        return x

    x = jnp.ones(3)
    one = iterate(shaped, x, steps=2, kind="halve", times=2)
    np.testing.assert_array_equal(one, iterate(shaped, x, steps=2, times=2, kind="halve"))
    np.testing.assert_array_equal(one, x / 16)


def test_any_callable_is_a_classifier_and_a_partial_stays_what_it_is():
    f = Partial(grow, 0.5)
    assert classifier(f) is f
    wrapped = classifier(lambda x: 2 * x)
    assert isinstance(wrapped, Partial) and wrapped(3) == 6
