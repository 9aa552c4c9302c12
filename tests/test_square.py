"""Square against NumPy loops with the same draws, its schedule, its chance, an attack's duties."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from l2ljax.attacks.pgd import pgd
from l2ljax.attacks.square import START, Draws, draw, eta, halvings, sides, square, tiles
from l2ljax.ball import per_image, size
from l2ljax.losses import margin

KEY = jax.random.key(5)
EPS = {"linf": 1 / 8, "l2": 0.8}
NORMS = list(EPS)
SHAPE = (8, 8, 1)
STEPS = 70


def weights(seed=0, shape=SHAPE, classes=4):
    a, b = jax.random.split(jax.random.key(seed))
    n = math.prod(shape)
    return {
        "a": 2 * jax.random.normal(a, (n, 8)) / n**0.5,
        "b": jax.random.normal(b, (8, classes)),
    }


def logits(theta, x):
    return jnp.tanh((x.reshape(len(x), -1) - 0.5) @ theta["a"]) @ theta["b"]


def game(n=8, shape=SHAPE, classes=4, edge=False):
    """A model, images, and the labels the model gives them."""
    f = Partial(logits, weights(0, shape, classes))
    x = jax.random.uniform(jax.random.key(9), (n, *shape))
    x = x.round() if edge else x
    return f, x, f(x).argmax(-1)


def drawn(n, shape, norm):
    """A start and draws of NumPy's own generator, one of each kind per image and step."""
    rng = np.random.default_rng(3)
    h, w, c = shape
    start = rng.normal(size=(n, h, w, c))
    start = np.sign(start) if norm == "linf" else start / size(start, norm)
    side = np.array(sides(shape, norm))[np.asarray(jax.vmap(halvings)(jnp.arange(STEPS)))][:, None]
    at = [(rng.random((STEPS, n)) * (m - side)).astype(int) for m in (h, w, h, w)]
    sign, turned = rng.choice([-1.0, 1.0], (STEPS, n, c)), rng.random((STEPS, n)) < 0.5
    return np.float32(EPS[norm] * start), Draws(*at[:2], sign, *at[2:], turned)


def replayed(norm, n=8):
    """The arguments that replace all chance; without them a test compiles a generator, too."""
    return dict(zip(("start", "draws"), drawn(n, SHAPE, norm), strict=True))


def numpy_margin(theta, x, y):
    a, b = (np.asarray(theta[name], np.float64) for name in "ab")
    z = np.tanh((x.reshape(-1) - 0.5) @ a) @ b
    return np.delete(z, y).max() - z[y]


def numpy_half(rows, cols):
    """Rectangles of growing size about the middle, the k-th worth 1 / k^2."""
    out = np.zeros((rows, cols))
    for k in range(1, max(rows, cols) + 1):
        r, c = rows // 2, cols // 2
        if k <= max(r, c) + 1:
            out[max(r - k + 1, 0) : r + k, max(c - k + 1, 0) : c + k] += 1 / k**2
    return out / np.linalg.norm(out) if out.size else out


def numpy_eta(side):
    out = np.vstack([numpy_half(side // 2, side), -numpy_half(side - side // 2, side)])
    return out / np.linalg.norm(out)


def numpy_step_linf(delta, eps, side, row, col, sign, *_):
    delta = delta.copy()
    delta[row : row + side, col : col + side] += 2 * eps * sign
    return np.clip(delta, -eps, eps)


def numpy_step_l2(delta, eps, side, row, col, sign, row2, col2, turned):
    channels = delta.shape[-1]
    one = (slice(row, row + side), slice(col, col + side))
    two = (slice(row2, row2 + side), slice(col2, col2 + side))
    both = np.zeros(delta.shape[:2], bool)
    both[one] = both[two] = True
    free = max(eps**2 - (delta**2).sum(), 0) / channels
    pattern = numpy_eta(side)
    pattern = pattern.T if turned else pattern
    out = delta.copy()
    out[two] = 0
    for k in range(channels):
        old = delta[one][..., k]
        new = pattern * sign[k] + old / max(np.linalg.norm(old), 1e-12)
        mass = np.sqrt(free + (delta[both][:, k] ** 2).sum())
        out[one + (k,)] = new / np.linalg.norm(new) * mass
    return eps * out / np.linalg.norm(out)


def numpy_square(theta, x, y, start, norm, draws):
    """One image by slices, in float64: every iterate."""
    propose = {"linf": numpy_step_linf, "l2": numpy_step_l2}[norm]
    h, w, _ = x.shape
    x, start = np.float64(x), np.float64(start)
    delta = np.clip(x + start, 0, 1) - x
    best, iterates = numpy_margin(theta, x + delta, y), [delta]
    for step in range(STEPS):
        p = 0.8
        for last in (10, 50, 200):
            p = p / 2 if step > last else p
        side = max(round(math.sqrt(p * h * w)), 1)
        if norm == "l2":
            side = max(side, 3)
            side += side % 2 == 0
        side = min(side, h, w)
        trial = propose(delta, EPS[norm], side, *(a[step] for a in draws))
        trial = np.clip(x + trial, 0, 1) - x
        value = numpy_margin(theta, x + trial, y)
        assert not 1e-9 < abs(value - best) < 1e-6, "a tie that rounding decides is a lottery"
        if best < 0 and value > best:
            delta, best = trial, value
        iterates.append(delta)
    return iterates


@pytest.mark.parametrize("shape", [SHAPE, (9, 6, 3)])
@pytest.mark.parametrize("norm", NORMS)
def test_square_equals_a_numpy_loop_iterate_for_iterate(norm, shape):
    f, x, y = game(shape=shape)
    start, draws = drawn(len(x), shape, norm)
    theirs = []
    for i in range(len(x)):
        own = jax.tree.map(lambda a, i=i: a[:, i], draws)
        theirs.append(numpy_square(f.args[0], x[i], int(y[i]), start[i], norm, own))
    settings = {"eps": EPS[norm], "norm": norm, "start": start, "draws": draws}
    for queries in (1, 2, 5, 11, 12, 30, 51, 52, STEPS):
        ours = square(KEY, f, x, y, queries=queries, **settings) - x
        np.testing.assert_allclose(ours, np.stack([t[queries] for t in theirs]), atol=2e-6)
    accepted = [sum((a != b).any() for a, b in zip(t, t[1:], strict=False)) for t in theirs]
    assert max(accepted) >= 5
    assert 0 < int((margin(f(x + ours), y) > 0).sum()) < len(x)


OFFICIAL = [
    (range(0, 11), 1),
    (range(11, 51), 2),
    (range(51, 201), 4),
    (range(201, 501), 8),
    (range(501, 1001), 16),
    (range(1001, 2001), 32),
    (range(2001, 4001), 64),
    (range(4001, 6001), 128),
    (range(6001, 8001), 256),
    (range(8001, 10_000), 512),
]
"""The steps of the published table, and by what p is divided there."""


def test_p_is_halved_at_the_official_steps():
    ours = 2 ** np.asarray(jax.jit(jax.vmap(halvings))(jnp.arange(10_000)))
    np.testing.assert_array_equal(ours, np.concatenate([[d] * len(r) for r, d in OFFICIAL]))


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (28, 20, 1), (1, 5, 3), (2, 2, 1)])
def test_a_window_covers_the_share_p_and_is_odd_in_l2(shape):
    h, w, _ = shape
    for k, (linf, l2) in enumerate(zip(sides(shape, "linf"), sides(shape, "l2"), strict=True)):
        side = round(math.sqrt(0.8 / 2**k * h * w))
        assert linf == min(max(side, 1), h, w)
        assert l2 == min(max(side + (side % 2 == 0), 3), h, w)


def test_a_short_run_is_the_beginning_of_a_long_one():
    f, x, y = game()
    reached = [
        margin(f(square(KEY, f, x, y, eps=0.03, queries=queries)), y)
        for queries in (1, 3, 20, 60, 120)
    ]
    for earlier, later in zip(reached, reached[1:], strict=False):
        assert bool((later >= earlier).all()), "the margin of the best never falls"
    assert bool((reached[-1] > reached[0]).any())


@pytest.mark.parametrize("side", range(1, 12))
def test_the_l2_pattern_is_made_of_rectangles(side):
    np.testing.assert_allclose(eta(side), numpy_eta(side), atol=1e-6)


def test_the_linf_start_is_vertical_stripes():
    _, x, _ = game(n=40, shape=(4, 6, 2))
    stripes = np.asarray(START["linf"](per_image(KEY, len(x)), x, jnp.float32(0.1)))
    np.testing.assert_allclose(np.abs(stripes), 0.1, atol=1e-6)
    np.testing.assert_allclose(stripes, stripes[:, :1] + 0 * stripes, atol=1e-6)
    assert abs(np.sign(stripes[:, 0]).mean()) < 0.2
    assert (stripes[:, 0, :, 0] * stripes[:, 0, :, 1] < 0).any(), "every channel has its own sign"


@pytest.mark.parametrize("shape", [(10, 10, 2), (12, 14, 1), (32, 32, 1)])
def test_the_l2_start_is_tiles_of_the_pattern(shape):
    rows, cols, build = tiles(shape)
    rng = np.random.default_rng(0)
    turned = rng.random((1, rows, cols, 1)) < 0.5
    sign = rng.choice([-1.0, 1.0], (1, rows, cols, shape[-1]))
    side = shape[0] // 5
    border = (shape[0] - 5 * side) // 2
    room = np.zeros((1, shape[0] + side + border, shape[1] + side + border, shape[2]))
    for r in range(rows):
        for c in range(cols):
            a, b = border + r * side, border + c * side
            tile = numpy_eta(side).T if turned[0, r, c, 0] else numpy_eta(side)
            room[0, a : a + side, b : b + side] = tile[..., None] * sign[0, r, c]
    expected = room[:, : shape[0], : shape[1]]
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(jax.jit(build)(turned, sign), expected, atol=1e-6)


def test_corners_are_uniform_and_never_at_the_last_place():
    shape, side = (8, 6, 3), 3
    keys = per_image(KEY, 50)
    d = jax.jit(jax.vmap(lambda i: draw(keys, i, side, shape)))(jnp.arange(60))
    for corner, room in ((d.row, 5), (d.col, 3), (d.row2, 5), (d.col2, 3)):
        counts = np.bincount(np.asarray(corner).ravel())
        assert len(counts) == room
        np.testing.assert_allclose(counts / counts.sum(), 1 / room, atol=0.03)
    for coin in (d.sign > 0, d.turned):
        assert abs(float(coin.mean()) - 0.5) < 0.03
    draws = [np.asarray(a, float).reshape(-1) for a in (d.row, d.col, d.row2, d.col2, d.turned)]
    draws += list(np.asarray(d.sign).reshape(-1, 3).T)
    together = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(together).max() < 0.08, "one draw says nothing about another"


def test_a_window_as_large_as_the_image_has_one_place():
    d = jax.jit(lambda keys: draw(keys, 0, 4, (4, 7, 1)))(per_image(KEY, 50))
    assert not np.asarray(d.row).any() and set(np.asarray(d.col).tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    "norm, shape",
    [("linf", (1, 1, 1)), ("linf", (3, 4, 2)), ("l2", (1, 3, 2)), ("l2", (12, 12, 1))],
)
def test_images_of_every_shape_stay_in_ball_and_box(norm, shape):
    f, x, y = game(shape=shape, edge=True)  # every pixel on the box
    out = square(KEY, f, x, y, eps=EPS[norm], queries=25, norm=norm)
    assert bool(jnp.isfinite(out).all())
    assert 0 <= float(out.min()) and float(out.max()) <= 1
    sizes = size(out - x, norm)
    assert float(sizes.max()) <= EPS[norm] + 1e-6
    assert float(sizes.max()) > 0.3 * EPS[norm]


@pytest.mark.parametrize("norm, soon", [("linf", 5), ("l2", 20)])
def test_an_image_that_fell_stands_still_and_one_that_was_wrong_comes_back(norm, soon):
    f, x, y = game()
    y = y.at[:2].set((y[:2] + 1) % 4)
    settings = {"eps": EPS[norm], "norm": norm}
    early, late = (square(KEY, f, x, y, queries=n, **settings) for n in (soon, 70))
    fallen = margin(f(early), y) > 0
    assert 2 < int(fallen.sum()) < len(x)
    np.testing.assert_array_equal(early[fallen], late[fallen])
    assert bool((early[~fallen] != late[~fallen]).any())
    np.testing.assert_array_equal(late[:2], x[:2])


def test_nothing_is_asked_once_all_have_fallen():
    f, x, y = game()
    out = square(KEY, f, x, (y + 1) % 4, eps=0.1, queries=10**9)
    np.testing.assert_array_equal(out, x)


def test_a_model_without_gradients_falls_all_the_same():
    theta, (_, x, _) = weights(), game()
    rough = Partial(lambda theta, x: jnp.round(8 * logits(theta, x)) + 1e-3 * jnp.arange(4), theta)
    y = rough(x).argmax(-1)
    gradient = pgd(KEY, rough, x, y, eps=0.1, steps=20, step_size=0.02, start="zero", loss="ce")
    np.testing.assert_array_equal(gradient, x)
    out = square(KEY, rough, x, y, eps=0.1, queries=60, **replayed("linf"))
    assert int((margin(rough(out), y) > 0).sum()) >= 2


@pytest.mark.parametrize("classes", [2, 3])
def test_any_number_of_classes_and_a_batch_of_one_will_do(classes):
    f, x, y = game(n=1, classes=classes)
    start = START["linf"](per_image(KEY, 1), x, jnp.float32(0.03))
    before = margin(f(jnp.clip(x + start, 0, 1)), y)
    after = margin(f(square(KEY, f, x, y, eps=0.03, queries=60)), y)
    assert float(after[0]) > min(float(before[0]), 0)


def test_an_image_the_model_cannot_judge_leaves_the_others_alone():
    f, x, y = game()
    ill = jnp.arange(len(x)) == 2
    broken = Partial(lambda f, x: jnp.where(ill[:, None], jnp.nan, f(x)), f)
    settings = {"eps": EPS["linf"], "queries": 30} | replayed("linf")
    out = square(KEY, broken, x, y.at[2].set(0), **settings)
    assert bool(jnp.isfinite(out).all())
    np.testing.assert_allclose(out[~ill], square(KEY, f, x, y, **settings)[~ill], atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_another_set_of_weights_costs_no_trace(norm):
    traces = []

    def counted(theta, x):
        traces.append(x.shape)
        return logits(theta, x)

    _, x, y = game()
    settings = {"queries": 15, "norm": norm} | (replayed(norm) if norm == "l2" else {})
    first = square(KEY, Partial(counted, weights(0)), x, y, eps=0.1, **settings)
    once = len(traces)
    second = square(KEY, Partial(counted, weights(1)), x, y, eps=0.2, **settings)
    square(KEY, Partial(counted, weights(2)), x, y, eps=0.1, **settings | {"queries": 60})
    assert once == len(traces) > 0
    assert bool((first != second).any())


def test_a_plain_function_and_numpy_arrays_are_accepted():
    f, x, y = game()
    settings = {"eps": 0.1, "queries": 15} | replayed("linf")
    ours = square(KEY, f, x, y, **settings)
    plain = square(KEY, lambda x: f(x), np.asarray(x), np.asarray(y), **settings)
    np.testing.assert_array_equal(plain, ours)


@pytest.mark.parametrize("norm", NORMS)
def test_what_an_image_draws_and_gets_does_not_depend_on_its_batch(norm):
    f, x, y = game()
    keys, settings = per_image(KEY, len(x)), {"eps": EPS[norm], "queries": 30, "norm": norm}
    together = square(KEY, f, x, y, **settings)
    order = jnp.array([4, 1, 5, 0, 2, 3])
    shuffled = square(keys[order], f, x[order], y[order], **settings)
    np.testing.assert_allclose(shuffled, together[order], atol=1e-6)
    assert bool((together != square(jax.random.key(6), f, x, y, **settings)).any())


@pytest.mark.parametrize("norm", NORMS)
def test_the_loop_of_an_accelerator_gives_what_the_python_loop_gives(norm, monkeypatch):
    f, x, y = game()
    settings = {"eps": EPS[norm], "queries": 30, "norm": norm}
    if norm == "l2":
        settings |= replayed(norm)
    here = square(KEY, f, x, y, **settings)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(square(KEY, f, x, y, **settings), here, atol=1e-6)


def test_one_draw_for_all_images_is_the_same_draw_for_each():
    f, x, y = game()
    shared = Draws(*drawn(1, SHAPE, "linf")[1][:3])
    each = jax.tree.map(lambda a: np.repeat(a, len(x), axis=1), shared)
    ours, theirs = (
        square(KEY, f, x, y, eps=EPS["linf"], queries=30, draws=draws) for draws in (shared, each)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_a_start_outside_the_ball_is_projected():
    f, x, y = game()
    for norm in NORMS:
        out = square(KEY, f, x, y, eps=0.02, queries=3, norm=norm, start=jnp.ones_like(x))
        assert float(size(out - x, norm).max()) <= 0.02 + 1e-6


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"norm": "l3"}, "unknown norm 'l3': did you mean 'l2'"),
        ({"norm": "l2", "draws": Draws(*np.zeros((3, 70, 8, 1)))}, "need row2, col2 and turned"),
        ({"queries": 71}, "draws are of 70 steps, and queries=71"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(wrong, words):
    f, x, y = game()
    settings = {"eps": 0.1, "queries": 30} | replayed("linf")
    with pytest.raises(ValueError, match=words):
        square(KEY, f, x, y, **settings | wrong)
