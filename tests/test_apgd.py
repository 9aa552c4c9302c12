"""Auto-PGD against the authors' loop written out in NumPy, and what the cascade relies on."""

import importlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from l2ljax.attacks.entrance import draw_keys, iterate, mean_over_keys
from l2ljax.attacks.pgd import SETTLE, apgd, apgd_targeted
from l2ljax.ball import per_image, size
from l2ljax.losses import cross_entropy
from l2ljax.solvers.hand_made import check_windows

module = importlib.import_module("l2ljax.attacks.pgd")  # the package has a function of that name

KEY = jax.random.key(5)
EPS = {"linf": 0.05, "l2": 0.15}
CE = {"eps": 0.1, "steps": 25, "loss": "ce"}
KINDS = ("ce", "dlr", "targeted")


def weights(seed=0, classes=5, steep=1):
    a, b = jax.random.split(jax.random.key(seed))
    return {"a": steep * jax.random.normal(a, (16, 8)), "b": jax.random.normal(b, (8, classes))}


def logits(theta, x):
    return jnp.tanh((x.reshape(len(x), -1) - 0.5) @ theta["a"]) @ theta["b"]


def batch(theta, n=12, edge=False, seed=9):
    """Images that are classified right."""
    x = jax.random.uniform(jax.random.key(seed), (n, 4, 4, 1))
    x = x.round() if edge else x
    return x, logits(theta, x).argmax(-1)


def attack(kind, rng, f, x, y, *, rank=2, **settings):
    settings = {"eps": EPS[settings.get("norm", "linf")], "steps": 25} | settings
    if kind == "targeted":
        return apgd_targeted(rng, f, x, y, rank=rank, **settings)
    return apgd(rng, f, x, y, loss=kind, **settings)


def wrong(f, x, y):
    return np.asarray(f(x).argmax(-1) != y)


class Trace(NamedTuple):
    """Of one image: every point looked at, its loss and slope, if it is misclassified; the step."""

    points: list
    losses: list
    slopes: list
    wrong: list
    step_sizes: list


def value_and_slope(z, y, t, loss):
    """The loss of one image's logits and its derivative by them."""
    e, top = np.eye(len(z)), np.argsort(z)[::-1]
    if loss == "ce":
        p = np.exp(z - z.max())
        p /= p.sum()
        return -np.log(p[y]), p - e[y]
    if loss == "dlr":
        t, low = top[top != y][0], e[top[2]]
    else:
        low = (e[top[2]] + e[top[3]]) / 2
    gap, spread = e[t] - e[y], e[top[0]] - low
    below = spread @ z + 1e-12
    return gap @ z / below, gap / below - (gap @ z) / below**2 * spread


def by_hand(theta, x, y, t, start, *, loss, norm, eps, steps, before_first=0.0):
    """Auto-PGD on one flat image in float64: the whole table of losses, the checks counted down."""

    def look(point):
        h = np.tanh((point - 0.5) @ theta["a"])
        value, slope = value_and_slope(h @ theta["b"], y, t, loss)
        return value, theta["a"] @ ((1 - h**2) * (theta["b"] @ slope)), (h @ theta["b"]).argmax()

    def inside(point):
        d = point - x
        if norm == "linf":
            d = np.minimum(np.maximum(d, -eps), eps)
        elif np.linalg.norm(d) > eps:
            d *= eps / np.linalg.norm(d)
        return np.minimum(np.maximum(x + d, 0), 1)

    point = previous = best = inside(x + start)
    value, gradient, label = look(point)
    best_value, best_gradient = value, gradient
    trace = Trace([point], [value], [np.abs(gradient).max()], [label != y], [])
    step, table = 2 * eps, {-1: before_first}
    reduced, best_at_check = True, value
    window, countdown = max(int(0.22 * steps), 1), max(int(0.22 * steps), 1)
    for i in range(steps):
        trace.step_sizes.append(step)
        direction = np.sign(gradient)
        if norm == "l2":
            direction = gradient / (np.linalg.norm(gradient) + 1e-12)
        momentum, previous = point - previous, point
        a = 0.75 if i else 1.0
        point = inside(point + step * direction)
        point = inside(previous + a * (point - previous) + (1 - a) * momentum)
        table[i], gradient, label = look(point)
        trace.points.append(point)
        trace.losses.append(table[i])
        trace.slopes.append(np.abs(gradient).max())
        trace.wrong.append(label != y)
        if table[i] > best_value:
            best, best_value, best_gradient = point, table[i], gradient
        countdown -= 1
        if countdown:
            continue
        rose = sum(table[j] > table[j - 1] for j in range(i - window + 1, i + 1))
        reduced = rose <= 0.75 * window or (not reduced and best_value <= best_at_check)
        best_at_check = best_value
        if reduced:
            step, point, gradient = step / 2, best, best_gradient
        window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        countdown = window
    return trace


def returned(trace):
    """The last misclassified point of those that count, else the point of highest loss."""
    if not any(trace.wrong):
        return trace.points[int(np.argmax(trace.losses))]
    first = trace.wrong.index(True)
    counting = range(first, min(first + SETTLE, len(trace.points)))
    return trace.points[max(i for i in counting if trace.wrong[i])]


def starts(x, eps, norm, seed=3):
    t = np.random.default_rng(seed).uniform(-1, 1, x.shape)
    return eps * t / np.asarray(size(jnp.asarray(t), norm))


def recorded(monkeypatch, run):
    """What run() returns, and the state after every step as NumPy arrays, with no early stop."""
    states = []

    def every_step(step, carry, *args, steps, done, **static):
        for i in range(steps):
            carry = step(i, carry, *args, **static)
            states.append(jax.tree.map(np.asarray, carry))
        return carry

    with monkeypatch.context() as patch:
        patch.setattr(module, "iterate", every_step)
        return np.asarray(run()), states


def in_float64(theta, x):
    """As the NumPy loop sees them; to be called where x64 is on."""
    theta = {name: jnp.asarray(np.asarray(w), jnp.float64) for name, w in theta.items()}
    return Partial(logits, theta), jnp.asarray(np.asarray(x), jnp.float64)


def decided(trace):
    """How many points of a trace rounding does not choose.

    DLR is flat where the label has come in third and has a pole where all three are level; at the
    top of a hill, and on points met again, a rise is one of the last bit.
    """
    slopes, losses = np.array(trace.slopes), np.array(trace.losses)
    moves = np.abs(np.diff(losses, prepend=np.inf))
    lottery = (slopes < 1e-6) | (losses > 10) | ((moves > 0) & (moves < 1e-12))
    return int(lottery.argmax()) + 1 if lottery.any() else len(lottery)


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_trace_equals_the_authors_loop_written_out(kind, norm, monkeypatch):
    theta, eps, rank, steps = weights(steep=2), {"linf": 0.05, "l2": 0.25}[norm], 3, 100
    x, y = batch(theta, n=40)
    # Optimised as a user has it, not as conftest.py: a hundred steps carry a rounding error far.
    names, options = ("loss", "norm", "eot"), {"xla_backend_optimization_level": 3}
    step = jax.jit(module._climb.__wrapped__, static_argnames=names, compiler_options=options)
    monkeypatch.setattr(module, "_climb", step)
    start = starts(x, eps, norm)
    with jax.enable_x64(True):
        f, x = in_float64(theta, x)
        settings = {"norm": norm, "eps": eps, "rank": rank, "start": start, "steps": steps}
        out, states = recorded(monkeypatch, lambda: attack(kind, KEY, f, x, y, **settings))
        targets = np.argsort(-np.asarray(f(x)), 1)[:, rank - 1]
        np.testing.assert_array_equal(attack(kind, KEY, f, x, y, **settings), out)
        theta, x = jax.tree.map(np.asarray, (f.args[0], x))
    at_check, followed, returns = np.array(check_windows(steps)) > 0, [], 0
    for n, image in enumerate(x.reshape(len(x), -1)):
        settings = {"loss": kind, "norm": norm, "eps": eps, "steps": steps}
        trace = by_hand(theta, image, int(y[n]), targets[n], start[n].ravel(), **settings)
        until = decided(trace)
        ours = [s.loss[n] for s in states[1:until]]
        np.testing.assert_allclose(ours, trace.losses[1:until], rtol=1e-5, atol=1e-5)
        ours = [s.step_size[n].item() for s in states[: until - 1]]
        np.testing.assert_allclose(ours, trace.step_sizes[: until - 1], rtol=1e-12)
        for i in range(until):
            far = np.abs(image + states[i].delta[n].ravel() - trace.points[i]).max()
            assert at_check[i] or far < 1e-7  # at a check point it may have gone back already
            returns += at_check[i] and far > 1e-3
        assert bool(states[-1].fallen[n] > 0) == any(trace.wrong)
        followed.append(until)
        if until == steps + 1:
            np.testing.assert_allclose(out[n].ravel(), returned(trace), atol=1e-7)
    assert sum(followed) > 800 and followed.count(steps + 1) > 2
    assert returns > 5, "hardly any image has gone back to its best point"
    assert 0 < (states[-1].fallen > 0).mean() < 1


def test_the_check_points_are_the_official_ones():
    checks = {i: window for i, window in enumerate(check_windows(100)) if window}
    assert list(checks) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checks.values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    assert check_windows(5) == [0, 1, 1, 1, 1, 1] and check_windows(0) == [0]


def test_the_first_loss_is_compared_with_zero_as_in_the_authors_code(monkeypatch):
    """With a window of 16, twelve rises halve the step: the one that is always there decides."""
    theta, settings = weights(), {"norm": "l2", "eps": 0.1, "steps": 75}
    x, y = batch(theta, n=40)
    start = starts(x, 0.1, "l2")
    with jax.enable_x64(True):
        f, x = in_float64(theta, x)
        run = lambda: attack("ce", KEY, f, x, y, start=start, **settings)  # noqa: E731
        states = recorded(monkeypatch, run)[1]
        theta, x = jax.tree.map(np.asarray, (f.args[0], x))

    def halved(n, before_first):
        image = x[n].ravel(), int(y[n]), 0, start[n].ravel()
        trace = by_hand(theta, *image, loss="ce", before_first=before_first, **settings)
        return trace.step_sizes[16] < 0.2

    as_official = np.array([halved(n, 0.0) for n in range(len(x))])
    without = np.array([halved(n, np.inf) for n in range(len(x))])
    assert (without & ~as_official).any(), "no image stands on the threshold"
    np.testing.assert_array_equal(states[16].step_size.squeeze() < 0.2, as_official)


@pytest.mark.parametrize("norm", EPS)
def test_a_random_start_lies_on_the_boundary_and_is_drawn_from_the_images_own_key(norm):
    x, y = jnp.full((5, 4, 4, 1), 0.5), jnp.zeros(5, int)

    def sure(x):
        return jnp.tile(jnp.array([1.0, 0.0, 0.0, 0.0]), (len(x), 1)) + 0 * x.sum()

    keys = per_image(KEY, 5)
    settings = {"eps": EPS[norm], "steps": 3, "loss": "ce", "norm": norm}
    delta = apgd(keys, sure, x, y, **settings) - x  # no gradient: it stays at its start
    np.testing.assert_allclose(size(delta, norm).squeeze(), EPS[norm], rtol=1e-5)
    assert len(np.unique(np.abs(delta).round(6))) > 60
    assert float(delta.min()) < 0 < float(delta.max())
    order = jnp.array([3, 0, 4, 2, 1])
    np.testing.assert_array_equal(apgd(keys[order], sure, x, y, **settings) - x, delta[order])
    np.testing.assert_array_equal(apgd(KEY, sure, x, y, **settings) - x, delta)
    replayed = apgd(jax.random.key(8), sure, x, y, **settings, start=delta)
    np.testing.assert_allclose(replayed - x, delta, atol=1e-7)


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", [False, True])
def test_what_is_returned_is_misclassified_or_the_best_attempt_in_ball_and_box(kind, norm, edge):
    theta = weights()
    f, (x, y) = Partial(logits, theta), batch(theta, edge=edge)
    out = attack(kind, KEY, f, x, y, norm=norm)
    assert 0 <= float(out.min()) and float(out.max()) <= 1
    assert float(size(out - x, norm).max()) <= EPS[norm] + 1e-6
    assert wrong(f, out, y).any()
    if kind == "ce":
        assert bool((cross_entropy(f(out), y) > cross_entropy(f(x), y)).all())


@pytest.mark.parametrize("kind", ["dlr", "targeted"])
@pytest.mark.parametrize("classes", [2, 3, 8, 10])
def test_any_number_of_classes_will_do(kind, classes):
    theta = weights(classes=classes)
    f, (x, y) = Partial(logits, theta), batch(theta, n=8)
    out = attack(kind, KEY, f, x, y, rank=min(10, classes), eps=0.5)
    assert bool(jnp.isfinite(out).all())
    assert wrong(f, out, y).any()


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_are_wrong_from_the_start_come_back_as_they_are(kind):
    theta = weights()
    f, (x, y) = Partial(logits, theta), batch(theta)
    np.testing.assert_array_equal(attack(kind, KEY, f, x, (y + 1) % 5), x)
    mixed = jnp.where(jnp.arange(len(x)) % 2, y, (y + 1) % 5)
    out = attack(kind, KEY, f, x, mixed)
    np.testing.assert_array_equal(out[::2], x[::2])
    assert bool((out[1::2] != x[1::2]).any((1, 2, 3)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_gets_what_it_gets_alone_wherever_it_stands_and_whoever_falls(kind):
    """In float64: in float32 a batch of another shape rounds a rise of the last bit otherwise."""
    theta = weights()
    x, y = batch(theta)
    keys, settings = per_image(KEY, len(x)), {"eps": 0.02}
    with jax.enable_x64(True):
        f, x = in_float64(theta, x)
        together = attack(kind, keys, f, x, y, **settings)
        assert 0 < wrong(f, together, y).mean() < 1
        order = jnp.array([4, 1, 5, 11, 2, 3, 10, 0, 6, 9, 8, 7])
        shuffled = attack(kind, keys[order], f, x[order], y[order], **settings)
        np.testing.assert_allclose(shuffled, together[order], atol=1e-9)
        for one in (slice(n, n + 1) for n in range(len(x))):
            alone = attack(kind, keys[one], f, x[one], y[one], **settings)
            np.testing.assert_allclose(alone, together[one], atol=1e-9)


def test_a_batch_that_has_fallen_stops_early_and_returns_the_same(monkeypatch):
    theta, calls = weights(), []
    f, (x, y) = Partial(logits, theta), batch(theta)
    step = module._climb

    def counted(i, *args, **static):
        calls.append(i)
        return step(i, *args, **static)

    monkeypatch.setattr(module, "_climb", counted)
    settings = {"eps": 0.6, "steps": 100, "loss": "ce"}
    stopped = apgd(KEY, f, x, y, **settings)
    assert wrong(f, stopped, y).all()
    assert len(calls) <= 2 * SETTLE
    monkeypatch.setattr(
        module, "iterate", lambda *args, done, **settings: iterate(*args, **settings)
    )
    np.testing.assert_array_equal(apgd(KEY, f, x, y, **settings), stopped)
    assert calls[-1] == 100


@pytest.mark.parametrize("eps", [0.1, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_of_an_accelerator_gives_what_the_python_loop_gives(kind, eps, monkeypatch):
    theta = weights()
    f, (x, y) = Partial(logits, theta), batch(theta, edge=True)
    here = attack(kind, KEY, f, x, y, eps=eps)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(attack(kind, KEY, f, x, y, eps=eps), here, atol=1e-6)


def test_an_image_of_nan_poisons_nobody():
    theta = weights()
    x, y = batch(theta)
    x = x.at[:, 0, 0, 0].set(0.5)
    y = logits(theta, x).argmax(-1)
    marked = x.at[2, 0, 0, 0].set(1.0)

    def broken(theta, x):
        return logits(theta, x) * jnp.where(x[:, 0, 0, :1] > 0.7, jnp.nan, 1.0)

    keys, rest = per_image(KEY, len(x)), jnp.arange(len(x)) != 2
    for kind, norm in zip(KINDS, ("l2", "linf", "l2"), strict=True):
        out = attack(kind, keys, Partial(broken, theta), marked, y, norm=norm)
        assert bool(jnp.isfinite(out).all())
        assert float(size(out - marked, norm).max()) <= EPS[norm] + 1e-6
        whole = attack(kind, keys, Partial(logits, theta), x, y, norm=norm)
        np.testing.assert_allclose(out[rest], whole[rest], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_where_the_net_breaks_is_no_adversarial_image(kind):
    theta = weights()
    x, y = batch(theta)
    x = x.at[:, 0, 0, 0].set(0.5)
    y = logits(theta, x).argmax(-1)

    def broken(theta, x):
        return logits(theta, x) * jnp.where(x[:, 0, 0, :1] > 0.51, jnp.nan, 1.0)

    f = Partial(broken, theta)
    out = attack(kind, KEY, f, x, y, start=jnp.zeros_like(x))
    assert bool(jnp.isfinite(f(out)).all())
    assert wrong(f, out, y).any()


def test_a_pixel_whose_gradient_is_nan_stays_and_the_others_climb():
    theta = weights()
    x, _ = batch(theta)
    x = x.at[:, 0, 0, 0].set(0.0)
    y = logits(theta, x).argmax(-1)

    def kinked(theta, x):
        return logits(theta, x) + 0 * jnp.sqrt(x[:, 0, 0])  # 0 times an infinite slope

    out = apgd(KEY, Partial(kinked, theta), x, y, **CE, start=jnp.zeros_like(x))
    assert bool((out[:, 0, 0, 0] == 0).all())
    assert wrong(Partial(logits, theta), out, y).mean() > 0.5


def test_a_look_costs_one_evaluation_and_there_is_one_per_step_and_one_at_the_start():
    theta, calls = weights(), []

    def counted(theta, x):
        jax.debug.callback(lambda: calls.append(1))
        return logits(theta, x)

    x, y = batch(theta)
    apgd(KEY, Partial(counted, theta), x, y, **CE | {"eps": 0.01, "steps": 30})
    jax.effects_barrier()
    assert len(calls) == 1 + 1 + 30, "the clean images, the start, the steps"


@pytest.mark.parametrize("kind", KINDS)
def test_another_set_of_weights_another_eps_another_rank_cost_no_trace(kind):
    traces = []

    def counted(theta, x):
        traces.append(x.shape)
        return logits(theta, x)

    x, y = batch(weights())
    first = attack(kind, KEY, Partial(counted, weights(0)), x, y)
    once = len(traces)
    second = attack(kind, KEY, Partial(counted, weights(1)), x, y, eps=0.2, rank=4)
    assert once == len(traces) > 0
    assert bool((first != second).any())


def test_plain_functions_and_numpy_arrays_are_accepted():
    theta = weights()
    f, (x, y) = Partial(logits, theta), batch(theta)
    expected = apgd(KEY, f, x, y, **CE)
    ours = apgd(KEY, lambda x: logits(theta, x), np.asarray(x), np.asarray(y), **CE)
    np.testing.assert_array_equal(ours, expected)
    start = 0.05 * np.ones(x.shape)  # float64, as NumPy makes it
    assert apgd(KEY, f, x, y, **CE, start=start).dtype == jnp.float32


def test_eot_takes_means_over_so_many_new_keys_at_every_look():
    theta, seen = weights(), []

    def noisy(theta, x, key):
        jax.debug.callback(lambda k: seen.append(tuple(np.asarray(k))), jax.random.key_data(key))
        return logits(theta, x)

    x, y = batch(theta)
    settings = CE | {"steps": 7, "eps": 0.01}
    out = apgd(KEY, Partial(noisy, theta), x, y, **settings, eot=3)
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == len(x) * 3 * (1 + 1 + 7)
    plain = apgd(KEY, Partial(logits, theta), x, y, **settings)
    np.testing.assert_allclose(out, plain, atol=1e-6)
    keys = draw_keys(per_image(KEY, 2), 5)
    numbers = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (3,))))
    mean = mean_over_keys(lambda keys: numbers(keys[None])[0], keys)
    np.testing.assert_allclose(mean, numbers(keys).mean(0), rtol=1e-6)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"loss": "dlrr"}, "unknown loss 'dlrr': did you mean 'dlr'"),
        ({"norm": "l3"}, "unknown norm 'l3': did you mean 'l2'"),
    ],
)
def test_an_unknown_word_names_the_nearest(wrong, words):
    x, y = batch(weights())
    with pytest.raises(ValueError, match=words):
        apgd(KEY, Partial(logits, weights()), x, y, **CE | wrong)


@pytest.mark.parametrize("rank", [1, 6])
def test_a_rank_that_no_wrong_class_can_have_is_an_error(rank):
    x, y = batch(weights())
    with pytest.raises(ValueError, match=f"rank {rank}: the target ranks of 5 classes are 2..5"):
        attack("targeted", KEY, Partial(logits, weights()), x, y, rank=rank)
