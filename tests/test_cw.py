"""Carlini and Wagner, both forms: against loops written out here, and what attacks promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from l2ljax.attacks import pgd
from l2ljax.attacks.cw import KAPPA, MOST_STEPS, cw_margin, cw_strict
from l2ljax.attacks.pgd import begin
from l2ljax.ball import NORMS, per_image, size
from l2ljax.devices import compiling_for
from l2ljax.losses import margin

KEY = jax.random.key(5)
MARGIN = {"eps": 0.1, "steps": 4, "step_size": 0.04, "start": "zero"}
STRICT = {"eps": 0.1, "steps": MOST_STEPS}


def weights(seed=0, classes=4):
    a, b = jax.random.split(jax.random.key(seed))
    return {
        "a": jax.random.normal(a, (16, 8)) / 4,
        "b": jax.random.normal(b, (8, classes)),
    }


def logits(theta, x):
    return jnp.tanh((x.reshape(len(x), -1) - 0.5) @ theta["a"]) @ theta["b"]


def net(seed=0, classes=4):
    return Partial(logits, weights(seed, classes))


def batch(f, n=6, wrong=0, seed=9):
    """Images classified rightly, but for the first `wrong` of them."""
    x = jax.random.uniform(jax.random.key(seed), (n, 4, 4, 1))
    z = f(x)
    return x, (z.argmax(-1) + (jnp.arange(n) < wrong)) % z.shape[-1]


def both(f, x, y, rng=KEY, **changes):
    """The two forms by name, with the settings of these tests."""
    changed = {k: v for k, v in changes.items() if k == "eps"}
    return {
        "margin": cw_margin(rng, f, x, y, **MARGIN | changes),
        "strict": cw_strict(rng, f, x, y, **STRICT | changed),
    }


# cw_margin


@pytest.mark.parametrize("norm", NORMS)
def test_the_margin_form_is_the_best_iterate_of_pgd_up_the_margin(norm):
    f = Partial(logits, weights() | {"a": 8 * weights()["a"]})  # bent: long steps overshoot
    x, y = batch(f)
    wide = {"eps": 0.5, "step_size": 0.4} if norm == "linf" else {"eps": 1.5, "step_size": 2.5}
    settings = {**MARGIN, "norm": norm, "start": "uniform"} | wide
    ours = cw_margin(KEY, f, x, y, **settings)
    first = x + begin(KEY, x, "uniform", eps=settings["eps"], norm=norm)
    later = (pgd(KEY, f, x, y, **settings | {"steps": k}, loss="margin") for k in range(1, 5))
    paths = jnp.stack([first, *later])
    margins = jnp.stack([margin(f(path), y) for path in paths])
    assert len(set(margins.argmax(0).tolist())) > 1, "not always the last one"
    expected = paths[margins.argmax(0), jnp.arange(len(x))]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_an_iterate_that_fools_is_kept_when_the_steps_lead_away_again():
    def peak(x):  # margin 0.05 - |mean - 0.58|
        m = 0.05 - jnp.abs(x.mean((1, 2, 3)) - 0.58)
        return jnp.stack([jnp.zeros_like(m), m], -1)

    x, y = jnp.full((1, 4, 4, 1), 0.5), jnp.array([0])
    settings = MARGIN | {"eps": 0.2, "step_size": 0.1}
    assert margin(peak(pgd(KEY, peak, x, y, **settings, loss="margin")), y) < 0
    out = cw_margin(KEY, peak, x, y, **settings)
    np.testing.assert_allclose(out, 0.6, atol=1e-6)


def test_beyond_kappa_there_is_nothing_to_climb():
    f = net()
    x, y = batch(f)
    settings = MARGIN | {"eps": 0.03, "step_size": 0.002, "kappa": 0.05}
    some, more = (cw_margin(KEY, f, x, y, **settings | {"steps": n}) for n in (60, 90))
    reached = margin(f(some), y) > 0.05
    assert 0 < int(reached.sum()) < len(x)
    np.testing.assert_array_equal(some[reached], more[reached])
    sure = cw_margin(KEY, f, x, y, **settings | {"steps": 60, "kappa": KAPPA})
    assert bool((margin(f(sure), y)[reached] > margin(f(some), y)[reached]).all())


def test_kappa_zero_leaves_what_is_misclassified_already():
    f = net()
    x, y = batch(f, wrong=6)
    np.testing.assert_array_equal(cw_margin(KEY, f, x, y, **MARGIN, kappa=0.0), x)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", ["zero", "uniform", "array"])
def test_the_margin_form_stays_in_ball_and_box(start, norm):
    f = net()
    x = batch(f)[0].round()
    y = f(x).argmax(-1)
    first = 9.0 * jnp.ones_like(x) if start == "array" else start
    out = cw_margin(KEY, f, x, y, **MARGIN | {"start": first, "norm": norm})
    assert 0 <= float(out.min()) and float(out.max()) <= 1
    assert 0.05 < float(size(out - x, norm).max()) <= 0.1 + 1e-6


@pytest.mark.parametrize(
    "wrong, words", [({"start": "unifrom"}, "'uniform'"), ({"norm": "l1"}, "'l2'|'linf'")]
)
def test_a_wrong_word_is_one_clear_line(wrong, words):
    f = net()
    with pytest.raises(ValueError, match=words):
        cw_margin(KEY, f, *batch(f), **MARGIN | wrong)


# cw_strict


def one_image(theta, x, y, eps):
    """The strict search of one image in float64, loops in loops: x_adv, steps, how it ended."""
    a, b = (np.asarray(theta[name], np.float64) for name in "ab")
    x, steps, solved = np.asarray(x, np.float64), 0, 0

    def forward(image):
        h = np.tanh((image.ravel() - 0.5) @ a)
        return h, h @ b

    if forward(x)[1].argmax() != y:
        return x, 0, "wrong"
    tau, c, previous = 1.0, 1e-5, x
    while tau > 1 / 256:
        origin = np.arctanh(0.9999 * (2 * previous - 1))
        m, mean, square, t, solution = np.zeros_like(x), 0.0, 0.0, 0, None
        while solution is None and c < 99:
            for _ in range(50):
                image = np.tanh(m + origin) / 2 + 0.5
                h, z = forward(image)
                other = np.where(np.arange(len(z)) == y, -np.inf, z).argmax()
                gap, delta = z[y] - z[other], image - x
                loss = c * max(gap, 0) + np.maximum(np.abs(delta) - tau, 0).sum()
                d = c * (gap > 0) * (np.eye(len(z))[y] - np.eye(len(z))[other])
                g = ((1 - h**2) * (b @ d) @ a.T).reshape(x.shape)
                g = g + np.sign(delta) * (np.abs(delta) > tau)
                g = g * (1 - np.tanh(m + origin) ** 2) / 2
                t, steps = t + 1, steps + 1
                mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
                scale = np.sqrt(square / (1 - 0.999**t)) + 1e-8
                m = m - 5e-3 * mean / (1 - 0.9**t) / scale
                if z.argmax() != y and np.abs(delta).max() < eps:
                    return image, steps, f"hit after {min(solved, 1)}"
                if z.argmax() != y and loss < 1e-4 * c:
                    solution, solved = image, solved + 1
                    break
            else:
                c *= 10
        if solution is None:
            return x, steps, "no c left"
        tau, previous = 0.9 * min(tau, np.abs(solution - x).max()), solution
    return x, steps, "no tau left"


def test_the_batch_ends_for_every_image_as_a_loop_over_single_images_does():
    ends = set()
    for seed, eps in ((0, 0.02), (0, 0.1), (1, 0.05), (2, 0.002)):
        f = net(seed)
        x, y = batch(f, n=12, wrong=1, seed=9 + seed)
        out = cw_strict(KEY, f, x, y, eps=eps, steps=MOST_STEPS)
        for i in range(12):
            expected, steps, end = one_image(weights(seed), x[i], int(y[i]), eps)
            np.testing.assert_allclose(out[i], expected, atol=1e-5, err_msg=f"{seed} {eps} {i}")
            assert steps <= MOST_STEPS
            ends.add(end)
    assert ends == {"wrong", "hit after 0", "hit after 1", "no c left", "no tau left"}


def test_the_search_ends_at_the_step_at_which_the_single_image_ends():
    f = net()
    x, y = batch(f)
    steps = [one_image(weights(), x[i], int(y[i]), 0.1)[1:] for i in range(len(x))]
    i, n = next((i, n) for i, (n, end) in enumerate(steps) if end == "hit after 1")
    enough = cw_strict(KEY, f, x, y, eps=0.1, steps=n)
    short = cw_strict(KEY, f, x, y, eps=0.1, steps=n - 1)
    assert bool((enough[i] != x[i]).any())
    np.testing.assert_array_equal(short[i], x[i], "unfinished counts as standing")


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_budget_that_no_one_needs_costs_nothing(platform):
    f = net()
    x, y = batch(f)
    settings = STRICT | {"steps": 10**12}
    with compiling_for(platform):
        np.testing.assert_array_equal(
            cw_strict(KEY, f, x, y, **settings), cw_strict(KEY, f, x, y, **STRICT)
        )


def test_a_success_fools_inside_the_ball_and_a_failure_is_the_image_itself():
    f = net()
    x = batch(f, n=40)[0]
    x = x.at[:20].set(x[:20].round())  # every pixel on the box
    y = f(x).argmax(-1)
    out = cw_strict(KEY, f, x, y, **STRICT)
    moved = (out != x).any((1, 2, 3))
    assert 5 < int(moved.sum()) < 35
    np.testing.assert_array_equal(margin(f(out), y) > 0, moved)
    assert float(jnp.abs(out - x).max()) < 0.1
    assert 0 <= float(out.min()) and float(out.max()) <= 1


# both


def test_each_form_fools_more_images_in_a_larger_ball():
    f = net()
    x, y = batch(f, n=40)
    small, large = both(f, x, y, eps=0.03), both(f, x, y, eps=0.12)
    for name in small:
        fell = [int((margin(f(out[name]), y) > 0).sum()) for out in (small, large)]
        assert 0 < fell[0] < fell[1], name


def test_misclassified_images_stay_misclassified():
    f = net()
    x, y = batch(f, wrong=6)
    out = both(f, x, y)
    np.testing.assert_array_equal(out["strict"], x)
    assert bool((margin(f(out["margin"]), y) > 0).all())


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_any_number_of_classes_will_do(classes):
    f = net(classes=classes)
    x, y = batch(f)
    for name, out in both(f, x, y).items():
        assert int((margin(f(out), y) > 0).sum()) > 0, name


def test_what_an_image_gets_does_not_depend_on_its_batch():
    f = net()
    x, y = batch(f)
    keys, order = per_image(KEY, len(x)), jnp.array([4])
    together = both(f, x, y, rng=keys, start="uniform")
    fewer = both(f, x[order], y[order], rng=keys[order], start="uniform")
    short = both(f, x, y, start="uniform")
    for name in together:
        np.testing.assert_allclose(fewer[name], together[name][order], atol=1e-6)
        np.testing.assert_array_equal(short[name], together[name])


def test_nan_at_one_image_does_not_reach_another():
    def broken(theta, x):
        return logits(theta, x) * jnp.where(x[:, :1, 0, 0] > 0.95, jnp.nan, 1)

    whole, f = net(), Partial(broken, weights())
    x, y = batch(whole)
    x = x.at[:, 0, 0, 0].set(0.5).at[2, 0, 0, 0].set(1.0)
    y = whole(x).argmax(-1)
    out, expected = both(f, x, y), both(whole, x, y)
    others = jnp.array([0, 1, 3, 4, 5])
    for name in out:
        assert bool(jnp.isfinite(out[name]).all())
        np.testing.assert_allclose(out[name][others], expected[name][others], atol=1e-6)
    np.testing.assert_array_equal(out["strict"][2], x[2])


def test_a_plain_function_and_numpy_arrays_will_do():
    theta = weights()
    f = Partial(logits, theta)
    x, y = batch(f)
    expected = both(f, x, y)
    plain = both(lambda x: logits(theta, x), np.asarray(x), np.asarray(y))
    for name in expected:
        np.testing.assert_allclose(plain[name], expected[name], atol=1e-6)


def test_another_set_of_weights_costs_no_trace():
    traces = []

    def counted(theta, x):
        traces.append(x.shape)
        return logits(theta, x)

    f = net()
    x, y = batch(f)
    first = both(Partial(counted, weights(0)), x, y)
    once = len(traces)
    second = both(Partial(counted, weights(1)), x, y, eps=0.2, step_size=0.1, kappa=1.0)
    assert len(traces) == once > 0
    for name in first:
        assert bool((first[name] != second[name]).any())


def test_the_loop_of_an_accelerator_gives_what_the_python_loop_gives(monkeypatch):
    f = net()
    x, y = batch(f)
    here = both(f, x, y, start="uniform")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = both(f, x, y, start="uniform")
    for name in here:
        assert bool((here[name] != x).any())
        np.testing.assert_allclose(here[name], there[name], atol=1e-6)
