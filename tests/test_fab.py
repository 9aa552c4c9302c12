"""FAB-T: its projections against general solvers, its steps against a NumPy loop, its contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.optimize import linprog, minimize

from l2ljax.attacks.fab import fab_targeted, least_move
from l2ljax.ball import NORMS, per_image, size
from l2ljax.losses import margin

KEY = jax.random.key(5)
FAR = {"eps": jnp.inf, "steps": 8, "rank": 2}
NEAR = {"linf": 0.06, "l2": 0.2}
"""Radii in which half of the images below fall."""

move = jax.jit(least_move, static_argnames="norm")


def planes(n, d, share, seed=0):
    """Points with pixels on the box too, normals with zeros, and gaps: a share of what is in reach.

    A negative share asks for a move against the normal.
    """
    rng = np.random.default_rng(seed)
    t = rng.random((n, d)) * (rng.random((n, d)) > 0.1)
    t = np.where(rng.random((n, d)) < 0.1, 1, t)
    w = rng.standard_normal((n, d)) * rng.random((n, d)) ** 2 * (rng.random((n, d)) > 0.1)
    room = np.where(np.sign(share) * w < 0, t, 1 - t)
    gap = share * (np.abs(w) * room).sum(1)
    return tuple(np.asarray(a, np.float32) for a in (t, w, gap))


def bisected(t, w, gap, norm):
    """The least move in float64, one row: |d| = min(lam v, room), lam by halving an interval."""
    t, w, gap = (np.asarray(a, np.float64) for a in (t, w, gap))
    way = np.sign(gap) * np.sign(w)
    room = np.where(way < 0, t, 1 - t)
    v = np.abs(w) if norm == "l2" else 1.0
    low, high = 0.0, 1e9
    for _ in range(120):
        lam = (low + high) / 2
        d = way * np.minimum(lam * v, room)
        low, high = (lam, high) if abs(w @ d) < abs(gap) else (low, lam)
    return d


SHARES = [0.001, 0.1, 0.5, 0.9, -0.3]


@pytest.mark.parametrize("share", SHARES)
def test_the_linf_move_is_as_small_as_a_linear_program_finds(share):
    case = planes(5, 20, share)
    for t, w, gap, d in zip(*case, np.asarray(move(*case, "linf")), strict=True):
        one = np.ones((20, 1))
        found = linprog(
            np.r_[np.zeros(20), 1],
            A_ub=np.block([[np.eye(20), -one], [-np.eye(20), -one]]),
            b_ub=np.zeros(40),
            A_eq=np.r_[w, 0][None],
            b_eq=[gap],
            bounds=[*zip(-t, 1 - t, strict=True), (0, None)],
        )
        np.testing.assert_allclose(np.abs(d).max(), found.fun, atol=1e-5)
        np.testing.assert_allclose(w @ d, gap, atol=1e-5)


@pytest.mark.parametrize("share", SHARES)
def test_the_l2_move_is_the_one_that_a_general_solver_finds(share):
    case = planes(4, 12, share, seed=1)
    for t, w, gap, d in zip(*map(np.float64, (*case, move(*case, "l2"))), strict=True):
        found = minimize(
            lambda d: d @ d / 2,
            np.zeros(12),
            jac=lambda d: d,
            method="SLSQP",
            bounds=[*zip(-t, 1 - t, strict=True)],
            constraints={"type": "eq", "fun": lambda d, w=w, gap=gap: w @ d - gap},
            options={"ftol": 1e-15, "maxiter": 500},
        )
        np.testing.assert_allclose(d, found.x, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", SHARES)
def test_the_move_is_exact_in_the_dimension_of_an_image(share, norm):
    t, w, gap = planes(4, 3072, share, seed=2)
    d = np.asarray(move(t, w, gap, norm))
    assert (t + d >= 0).all() and (t + d <= 1).all()
    expected = [bisected(*row, norm) for row in zip(t, w, gap, strict=True)]
    np.testing.assert_allclose(d, expected, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_out_of_reach_takes_every_pixel_to_the_box(norm):
    t, w, gap = planes(6, 20, 1.3)
    corner = np.where(w > 0, 1, np.where(w < 0, 0, t))
    np.testing.assert_allclose(t + move(t, w, gap, norm), corner, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_degenerate_planes_move_nothing(norm):
    t, w, gap = planes(6, 20, 0.5)
    np.testing.assert_array_equal(move(t, 0 * w, gap, norm), 0)  # no gradient
    np.testing.assert_array_equal(move(t, w, 0 * gap, norm), 0)  # on the plane already
    full = np.float32(w > 0)
    np.testing.assert_array_equal(move(full, w, gap, norm), 0)  # in the corner already


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e-7, 1e6, 1e15])
def test_any_size_of_gradient_gives_a_finite_move(size, norm):
    t, w, gap = planes(6, 20, 0.5)
    w, gap = np.float32(w * size), np.float32(gap * size)
    d = np.asarray(move(t, w, gap, norm))
    assert np.isfinite(d).all() and (t + d >= 0).all() and (t + d <= 1).all()
    if norm == "linf" or size > 1:
        expected = [bisected(*row, norm) for row in zip(t, w / size, gap / size, strict=True)]
        np.testing.assert_allclose(d, expected, atol=1e-5)
    elif size < 1e-8:
        np.testing.assert_array_equal(d, 0)  # the authors' least weight in l2


@pytest.mark.parametrize("norm", NORMS)
def test_a_row_of_nan_does_not_reach_another(norm):
    t, w, gap = planes(6, 20, 0.5)
    alone = move(t, w, gap, norm)
    w[2], others = np.nan, np.array([0, 1, 3, 4, 5])
    np.testing.assert_allclose(move(t, w, gap, norm)[others], alone[others], atol=1e-6)


def weights(seed=0, classes=4):
    a, b = jax.random.split(jax.random.key(seed))
    return {
        "a": jax.random.normal(a, (16, 8)) / 2,
        "b": jax.random.normal(b, (8, classes)),
    }


def logits(theta, x):
    return jnp.tanh((x.reshape(len(x), -1) - 0.5) @ theta["a"]) @ theta["b"]


def batch(n=6, classes=4):
    """Images with black and white pixels among them, and the labels that they are given."""
    x = jax.random.uniform(jax.random.key(9), (n, 4, 4, 1), minval=-0.2, maxval=1.2)
    x = jnp.minimum(jnp.maximum(x, 0), 1)
    return x, logits(weights(classes=classes), x).argmax(-1)


def fab(x, y, f=None, rng=KEY, **settings):
    return fab_targeted(rng, f or Partial(logits, weights()), x, y, **FAR | settings)


def distance(x_adv, x, norm):
    return np.asarray(size(jnp.asarray(x_adv - x), norm)).reshape(-1)


def numpy_norm(d, norm):
    return np.abs(d).max() if norm == "linf" else np.sqrt((d * d).sum())


def numpy_fab(theta, x, y, start, steps, rank, norm):
    """One image by hand, in float64: the smallest misclassified point and how close calls were."""
    a, b = (np.asarray(theta[name], np.float64) for name in "ab")

    def look(z):
        h = np.tanh((z - 0.5) @ a)
        return h @ b, h

    target = np.argsort(-look(x)[0])[rank - 1]
    z, best, least, closest = np.clip(x + start, 0, 1), x, np.inf, np.inf
    for _ in range(steps):
        out, h = look(z)
        w = a @ ((1 - h**2) * (b[:, target] - b[:, y]))
        gap = out[y] - out[target]
        here = bisected(z, w, gap, norm)
        there = bisected(x, w, gap + w @ (z - x), norm)
        far = [max(numpy_norm(d, norm), 1e-8) for d in (here, there)]
        alpha = min(far[0] / sum(far), 0.1)
        z = np.clip((1 - alpha) * (z + 1.05 * here) + alpha * (x + 1.05 * there), 0, 1)
        out = look(z)[0]
        lead = np.delete(out, y).max() - out[y]
        found = numpy_norm(z - x, norm)
        closest = min(closest, abs(lead))
        if lead > 0:
            if found < least:
                best, least = z, found
            z = x + 0.9 * (z - x)
    return best, closest


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("rank", [2, 4])
def test_fab_equals_a_numpy_loop(rank, started, norm):
    theta, (x, y) = weights(), batch()
    start = 0.3 * jax.random.normal(jax.random.key(3), x.shape) if started else None
    ours = fab(x, y, norm=norm, rank=rank, start=start)
    rows = np.asarray(x, np.float64).reshape(len(x), -1)
    starts = np.zeros_like(rows) if start is None else np.asarray(start).reshape(rows.shape)
    for i, row in enumerate(rows):
        best, closest = numpy_fab(theta, row, int(y[i]), starts[i], FAR["steps"], rank, norm)
        assert closest > 1e-5, "a label that rounding may flip would make this a lottery"
        np.testing.assert_allclose(np.asarray(ours[i]).reshape(-1), best, atol=1e-5)


def ray(steps):
    """The smallest norm found on the ray to a plane at distance 1, in that distance."""
    at, found = 0.0, []
    for _ in range(steps):
        alpha = min((1 - at) / (2 - at), 0.1)
        found.append((1 - alpha) * (at + 1.05 * (1 - at)) + alpha * 1.05)
        at = 0.9 * found[-1]
    return min(found)


def linear(w, x):
    return (x.reshape(len(x), -1) - 0.5) @ w


@pytest.mark.parametrize("norm", NORMS)
def test_the_norm_found_on_a_linear_classifier_is_its_distance_to_the_plane(norm):
    w = jax.random.normal(KEY, (16, 2))
    x = jax.random.uniform(KEY, (6, 4, 4, 1), minval=0.45, maxval=0.55)
    z = linear(w, x)
    between = np.asarray(w[:, 0] - w[:, 1])
    dual = np.abs(between).sum() if norm == "linf" else np.sqrt((between**2).sum())
    exact = np.abs(z[:, 0] - z[:, 1]) / dual
    assert 1 < ray(20) < 1.006 < ray(1)
    for steps in (1, 20):
        out = fab(x, z.argmax(-1), f=Partial(linear, w), norm=norm, steps=steps)
        np.testing.assert_allclose(distance(out, x, norm), ray(steps) * exact, rtol=1e-4)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_the_first_move_goes_to_the_class_of_that_rank(rank):
    """Class k is pixel k alone, so that the label's pixel and the target's are all that move."""
    z = jnp.array([[0.3, 0.6, 0.45, 0.4], [0.55, 0.4, 0.35, 0.5]])
    x = jnp.zeros((2, 2, 2, 1)) + z.reshape(2, 2, 2, 1)
    out = fab(x, z.argmax(-1), f=Partial(linear, jnp.eye(4)), rank=rank, steps=1)
    order = np.argsort(-np.asarray(z), axis=1)
    for i, d in enumerate(np.asarray(out - x).reshape(2, 4)):
        first, other = order[i, 0], order[i, rank - 1]
        half = 1.05 * (z[i, first] - z[i, other]) / 2
        expected = np.zeros(4)
        expected[[first, other]] = -half, half
        np.testing.assert_allclose(d, expected, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_eps_decides_what_comes_back_and_not_what_is_found(norm):
    x, y = batch()
    anywhere = fab(x, y, norm=norm)
    far = distance(anywhere, x, norm)
    near = far <= NEAR[norm]
    assert near.sum() == 3 and (margin(logits(weights(), anywhere), y) > 0).all()
    inside = fab(x, y, norm=norm, eps=NEAR[norm])
    expected = jnp.where(near[:, None, None, None], anywhere, x)
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_array_equal(fab(x, y, norm=norm, eps=0.999 * far.min()), x)


@pytest.mark.parametrize("norm", NORMS)
def test_more_steps_never_find_a_larger_perturbation(norm):
    x, y = batch()
    found = [distance(fab(x, y, norm=norm, steps=n), x, norm) for n in (4, 8, 16)]
    assert (found[0] >= found[1]).all() and (found[1] >= found[2]).all()
    assert (found[0] > found[2]).any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 8, 10])
def test_what_comes_back_is_lawful_for_any_number_of_classes(classes, norm):
    x, y = batch(classes=classes)
    f, eps = Partial(logits, weights(classes=classes)), NEAR[norm]
    for rank in (2, classes):
        out = fab(x, y, f=f, norm=norm, eps=eps, rank=rank)
        assert bool(jnp.isfinite(out).all()) and out.dtype == jnp.float32
        assert float(out.min()) >= 0 and float(out.max()) <= 1
        assert distance(out, x, norm).max() <= eps + 1e-6
        moved = distance(out, x, norm) > 0
        np.testing.assert_array_equal(margin(f(out), y) > 0, moved)


@pytest.mark.parametrize("classes, rank", [(2, 3), (3, 4), (4, 1), (8, 9)])
def test_a_rank_that_no_class_has_is_an_error(classes, rank):
    x, y = batch(classes=classes)
    with pytest.raises(ValueError, match=f"the target ranks of {classes} classes are 2..{classes}"):
        fab(x, y, f=Partial(logits, weights(classes=classes)), rank=rank)


def test_a_lost_image_comes_back_as_it_is():
    x, y = batch()
    lost = y.at[jnp.array([1, 4])].add(1) % 4
    out, alone = fab(x, lost), fab(x, y)
    np.testing.assert_array_equal(out[jnp.array([1, 4])], x[jnp.array([1, 4])])
    np.testing.assert_array_equal(out[jnp.array([0, 2])], alone[jnp.array([0, 2])])
    np.testing.assert_array_equal(fab(x, (y + 1) % 4), x)


def test_nan_at_one_image_does_not_reach_another_and_is_no_success():
    x, _ = batch()
    x = x.at[:, 0, 0, 0].set(0.8).at[2, 0, 0, 0].set(0.125)
    y = logits(weights(), x).argmax(-1)
    assert y[2] != 0, "argmax calls NaN class 0"
    alone, others = fab(x, y), jnp.array([0, 1, 3, 4, 5])

    def at_once(x):
        return logits(weights(), x) / (x[:, :1, 0, 0] != 0.125)

    def once_moved(x):
        moved = jnp.abs(x[:, :1, 0, 0] - 0.125)
        return jnp.where((moved > 0) & (moved < 0.3), jnp.nan, logits(weights(), x))

    for f in (at_once, once_moved):
        out = fab(x, y, f=f)
        np.testing.assert_allclose(out[others], alone[others], atol=1e-6)
        np.testing.assert_array_equal(out[2], x[2])
    assert bool((alone[2] != x[2]).any())


def test_a_classifier_without_gradient_gives_the_image_back():
    x, y = batch()
    out = fab(x, y, f=lambda x: jax.lax.stop_gradient(logits(weights(), x)))
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("norm", NORMS)
def test_what_an_image_gets_does_not_depend_on_its_batch_nor_on_the_key(norm):
    x, y = batch()
    together = fab(x, y, norm=norm)
    order = jnp.array([4, 1, 5, 0, 2, 3])
    shuffled = fab(x[order], y[order], norm=norm, rng=per_image(jax.random.key(6), 6))
    np.testing.assert_allclose(shuffled, together[order], atol=1e-6)
    np.testing.assert_allclose(fab(x[:1], y[:1], norm=norm), together[:1], atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_loop_of_an_accelerator_gives_what_the_python_loop_gives(norm, monkeypatch):
    x, y = batch()
    here = fab(x, y, norm=norm)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = fab(x, y, norm=norm)
    assert bool((here != x).any())
    np.testing.assert_allclose(here, there, atol=1e-6)


def test_another_set_of_weights_another_rank_or_eps_costs_no_trace():
    traces = []

    def counted(theta, x):
        traces.append(x.shape)
        return logits(theta, x)

    x, y = batch()
    first = fab(x, y, f=Partial(counted, weights(0)))
    once = len(traces)
    second = fab(x, y, f=Partial(counted, weights(1)))
    fab(x, y, f=Partial(counted, weights(2)), steps=3, rank=3, eps=0.1)
    assert once == len(traces) == 4  # shape; the clean logits; a step's gradient and forward pass
    assert bool((first != second).any())


def test_a_plain_function_and_numpy_arrays_are_accepted():
    x, y = batch()
    expected = fab(x, y)
    np.testing.assert_array_equal(fab(x, y, f=lambda x: logits(weights(), x)), expected)
    np.testing.assert_array_equal(fab(np.asarray(x), np.asarray(y)), expected)


def test_an_unknown_norm_names_the_nearest():
    with pytest.raises(ValueError, match="unknown norm 'L2': did you mean 'l2'"):
        fab(*batch(), norm="L2")
