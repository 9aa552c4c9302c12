"""Evaluation over a set: packing and batch size change nothing; a union is its parts at worst."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.stats import binomtest

from l2ljax.attacks import Budget, autoattack, parse, parse_all, specs
from l2ljax.attacks.cascade import batches
from l2ljax.evaluation.accuracy import evaluate, freeze, robust, wilson
from l2ljax.evaluation.tables import attack_eps, interval, table
from l2ljax.tables import align

EPS, N = 0.1, 40
TINY = Budget(apgd_steps=2, targets=1)
KEY = jax.random.key(1)


def weights(seed=0):
    return {"w": jax.random.normal(jax.random.key(seed), (16, 3))}


def logits(theta, x):
    return (x.reshape(len(x), -1) - 0.5) @ theta["w"]


def answers(x, theta=None):
    images = jnp.asarray(x, jnp.float32) / (255 if x.dtype == np.uint8 else 1)
    return np.array(logits(theta or weights(), images).argmax(-1))


@pytest.fixture(scope="module")
def images():
    """uint8 images and labels of which the classifier gets every fifth wrong."""
    x = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 1)).astype(np.uint8)
    y = answers(x)
    y[::5] = (y[::5] + 1) % 3
    return x, y.astype(np.int32)


def stood(x, y, attack, f=None, batch_size=16, key=KEY, **settings):
    f = f or Partial(logits, weights())
    return robust(key, f, x, y, parse(attack), eps=EPS, batch_size=batch_size, **settings)


def test_clean_accuracy_is_the_share_of_right_answers(images):
    x, y = images
    np.testing.assert_array_equal(stood(x, y, "clean"), answers(x) == y)
    assert stood(x, y, "clean").mean() == 0.8


def test_against_a_linear_classifier_fgsm_is_the_margin_in_the_dual_norm():
    """Two classes: an image stands exactly if its margin exceeds eps times the l1 norm of w."""
    x = jax.random.uniform(KEY, (N, 4, 4, 1), minval=0.1, maxval=0.9)
    w = jax.random.normal(KEY, (16, 2)) / 4

    def f(x):
        return (x.reshape(len(x), -1) - 0.5) @ w

    y = f(x).argmax(-1)
    gap = np.asarray(f(x)[jnp.arange(N), y] - f(x)[jnp.arange(N), 1 - y])
    expected = gap > EPS * np.abs(w[:, 0] - w[:, 1]).sum()
    assert 0 < expected.sum() < N
    for attack in ("fgsm", "pgm10", "pgm20x2", "pgm10_margin"):
        np.testing.assert_array_equal(stood(np.asarray(x), np.asarray(y), attack, f), expected)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_nothing(images, batch_size):
    reference = stood(*images, "pgm2x2")
    assert 0 < reference.sum() < stood(*images, "clean").sum()
    np.testing.assert_array_equal(stood(*images, "pgm2x2", batch_size=batch_size), reference)


def test_the_packing_changes_nothing(images):
    """With other images wrong from the start, those that are left share other batches."""
    x, y = images
    reference = stood(x, y, "pgm3x3")
    kept = np.arange(N) % 3 == 1
    other = stood(x, np.where(kept, y, (answers(x) + 1) % 3), "pgm3x3", batch_size=4)
    np.testing.assert_array_equal(other[kept], reference[kept])
    assert not other[~kept].any() and 0 < other[kept].sum()


def test_random_starts_are_drawn_from_the_key_and_differ_between_restarts(images):
    results = [stood(*images, "pgm1x1", key=jax.random.key(seed)) for seed in range(6)]
    assert len({result.tobytes() for result in results}) > 1
    np.testing.assert_array_equal(results[0], stood(*images, "pgm1x1", key=jax.random.key(0)))
    assert stood(*images, "pgm1x20").sum() < stood(*images, "pgm1x1").sum()


def test_more_restarts_never_help_and_a_union_is_the_worst_of_its_parts(images):
    one, two, six = (stood(*images, f"pgm1x{n}") for n in (1, 2, 6))
    assert (two <= one).all() and (six <= two).all()
    margin = stood(*images, "pgm1x2_margin")
    union = stood(*images, "pgm1x2+pgm1x2_margin")
    np.testing.assert_array_equal(union, two & margin)
    np.testing.assert_array_equal(stood(*images, "pgm1x2_margin+pgm1x2"), union)
    np.testing.assert_array_equal(stood(*images, "fgsm+pgm1x6"), stood(*images, "fgsm") & six)


def test_no_attacked_accuracy_is_above_the_clean_one(images):
    clean = stood(*images, "clean")
    for attack in ("fgsm", "pgm3", "pgm3x2", "selection"):
        assert (stood(*images, attack) <= clean).all()


@pytest.fixture
def calls(monkeypatch):
    """Every attacked batch: (radius, step size, steps, start, loss)."""
    seen = []

    def record(rng, f, x, y, *, eps, steps, step_size, start, loss, norm):
        seen.append((eps, step_size, steps, start, loss))
        return x

    monkeypatch.setattr(specs, "pgd", record)
    return seen


def test_only_survivors_are_attacked_in_full_batches(images, calls):
    x, y = images
    stood(x, y, "pgm2", batch_size=8)
    assert len(calls) == 4  # 32 of the 40 images were right
    calls.clear()
    stood(x, np.where(np.arange(N) < 9, answers(x), (answers(x) + 1) % 3), "pgm2x3", batch_size=8)
    assert len(calls) == 3 * 2  # 9 of 40


def test_images_that_fell_are_left_alone(images, calls, monkeypatch):
    monkeypatch.setattr(specs, "pgd", lambda *a, **k: calls.append(k) or a[2] * 0.999)
    assert not stood(*images, "pgm2x50", f=lambda x: logits(weights(), x) + lost(x)).any()
    assert len(calls) == 2


def lost(x):
    """A shift that makes an image without one pixel of full bytes belong to no class at all."""
    bytes_ = x * 255
    full = jnp.abs(bytes_ - bytes_.round()).max() < 1e-3
    return jnp.where(full, 0.0, jnp.nan)


def test_strength_is_what_the_name_says_at_the_evaluations_radius(images, calls):
    x, y = images
    stood(x[1:2], y[1:2], "pgm10_margin+pgm100x2")
    stood(x[1:2], y[1:2], "pgd20_madry")
    stood(x[1:2], y[1:2], "pgm10_v1")
    expected = [
        (EPS, EPS / 3, 10, "zero", "margin"),
        *[(EPS, 2.5 * EPS / 100, 100, "uniform", "ce")] * 2,
        (8 / 255, 2 / 255, 20, "uniform", "ce"),
        (0.03, 0.01, 10, "zero", "ce"),
    ]
    assert [call[2:] for call in calls] == [call[2:] for call in expected]
    np.testing.assert_allclose([c[:2] for c in calls], [c[:2] for c in expected])


def test_nothing_recompiles_for_another_size_of_the_set_or_other_weights(images):
    traces = []

    def counted(theta, x):
        traces.append(x.shape)
        return logits(theta, x)

    x, y = images
    stood(x, y, "pgm3x2", Partial(counted, weights(0)))
    once = len(traces)
    for n in (1, 15, 16, 17, 33):
        stood(x[:n], y[:n], "pgm3x2", Partial(counted, weights(n)))
    assert once == len(traces) > 0
    assert {shape[0] for shape in traces} == {16}


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17])
def test_any_number_of_images_will_do(images, n):
    x, y = images
    np.testing.assert_array_equal(stood(x[:n], y[:n], "pgm3x2"), stood(x, y, "pgm3x2")[:n])


def test_a_model_that_is_never_right_stands_nowhere(images, calls):
    x, _ = images
    result = stood(x, (answers(x) + 1) % 3, "pgm2x2")
    assert result.shape == (N,) and not result.any() and calls == []


def test_a_nan_is_no_answer(images):
    x, _ = images
    for attack in ("clean", "pgm2"):
        with pytest.warns(RuntimeWarning, match=f"logits are NaN for {N} of {N} images"):
            found = stood(x, np.zeros(N, int), attack, lambda x: logits(weights(), x) * np.nan)
        assert not found.any()


def slopeless(x):
    """The same logits, and NaN as their gradient at every image."""
    return logits(weights(), x) + jnp.sqrt(0 * x.sum((1, 2, 3)))[:, None]


def test_images_that_stand_because_their_gradient_is_nan_are_told(images):
    """No step of an attack could move them: a robust accuracy of 100 % is none."""
    x, y = images[0], answers(images[0])
    words = f"{N} of the {N} images that stand have a gradient that is NaN or infinite"
    with pytest.warns(RuntimeWarning, match=words):
        assert stood(x, y, "pgm2", slopeless).all()
    how = {"eps": EPS, "batch_size": 16}
    clean, attacked = evaluate(KEY, slopeless, x, y, parse_all("clean,pgm2"), **how)
    assert clean.warnings == () and words in attacked.warnings[0]
    assert attacked.state.nan_gradient == N
    result = autoattack(KEY, slopeless, x, y, version="quick", budget=TINY, **how)
    standing = result.robust.sum()  # Auto-PGD's own random start moves some
    words = f"{standing} of the {standing} images that stand have a gradient"
    assert any(words in line for line in result.warnings) and result.nan_gradient == standing
    good = evaluate(KEY, Partial(logits, weights()), x, y, parse_all("pgm2"), **how)
    assert good[0].warnings == () and good[0].state.nan_gradient == 0


def test_refused_claims_are_told(images, monkeypatch):
    """An attack that leaves the ball would otherwise leave every image standing in silence."""
    monkeypatch.setattr(specs, "pgd", lambda *a, **k: 1 - a[2])
    with pytest.warns(RuntimeWarning, match="claims of adversarial images were refused"):
        stood(*images, "pgm2")


def halved(x):
    """Logits in float32, computed in bfloat16, inside a program of its own."""
    w = weights()["w"].astype(jnp.bfloat16)
    product = jax.jit(lambda x: (x.reshape(len(x), -1) - 0.5).astype(jnp.bfloat16) @ w)
    return product(x).astype(jnp.float32)


def test_a_classifier_that_multiplies_in_half_precision_is_told(images):
    how = {"eps": EPS, "batch_size": 16}
    with pytest.warns(RuntimeWarning, match="the classifier computes in bfloat16.*dtype=float32"):
        stood(*images, "clean", halved)
    (result,) = evaluate(KEY, halved, *images, parse_all("clean"), **how)
    assert "computes in bfloat16" in result.warnings[0]
    whole = autoattack(KEY, halved, *images, version="quick", budget=TINY, **how)
    assert any("computes in bfloat16" in line for line in whole.warnings)


def test_pixels_may_be_bytes_or_floats(images):
    x, y = images
    floats = x * np.float32(1 / 255)
    for attack in ("clean", "pgm3x2"):
        expected = stood(x, y, attack)
        np.testing.assert_array_equal(stood(floats, y, attack), expected)
        np.testing.assert_array_equal(stood(floats.astype(float), y.astype(int), attack), expected)


def test_a_batch_without_images_is_refused(images):
    for size in (0, -4):
        with pytest.raises(ValueError, match=f"batch_size={size}"):
            stood(*images, "clean", batch_size=size)


def test_batches_are_full_and_say_how_much_of_them_is_real():
    blocks = list(batches(np.arange(10, 17), 3))
    assert [n for _, n in blocks] == [3, 3, 1]
    assert [len(rows) for rows, _ in blocks] == [3, 3, 3]
    real = [row for rows, n in blocks for row in rows[:n]]
    assert real == list(range(10, 17))
    assert list(batches(np.arange(0), 3)) == []


def test_every_batch_is_told_and_seconds_are_summed_by_attack(images):
    told, begun = [], {}
    attacks = parse_all("pgm1x2+fgsm,clean")
    f = Partial(logits, weights())
    results = evaluate(
        KEY,
        f,
        *images,
        attacks,
        eps=EPS,
        batch_size=16,
        begun=begun,
        on_batch=lambda attack, runs, state: told.append((attack.name, len(runs), state.run)),
    )
    assert {name for name, *_ in told} == set(begun) == {"pgm1x2+fgsm", "clean"}
    assert {runs for name, runs, _ in told if name != "clean"} == {3}
    assert [step.attack for step in results[0].after] == ["clean", "pgm1x2", "fgsm"]
    accuracies = [step.accuracy for step in results[0].after]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[-1] == results[0].accuracy
    assert accuracies[1] == stood(*images, "pgm1x2").mean()
    assert sum(step.seconds for step in results[0].after) == pytest.approx(results[0].seconds)
    again = evaluate(KEY, f, *images, attacks, eps=EPS, batch_size=16, begun=begun, on_batch=None)
    assert [r.seconds for r in again] == [r.seconds for r in results]


def test_every_attack_starts_from_all_images_and_reports_its_own_radius(images):
    attacks = parse_all("fgsm,clean,pgm10_v1")
    results = evaluate(KEY, Partial(logits, weights()), *images, attacks, eps=EPS, batch_size=16)
    assert [(r.attack, r.eps) for r in results] == [
        ("fgsm", EPS),
        ("clean", 0.0),
        ("pgm10_v1", 0.03),
    ]
    for result in results:
        np.testing.assert_array_equal(result.robust, stood(*images, result.attack))
        assert result.accuracy == result.robust.mean() and result.seconds > 0


def test_a_frozen_classifier_runs_in_eval_mode_and_compiles_once_for_all_weights(images):
    modes = []

    def f(theta, stats, x, mode):
        modes.append(mode)
        return logits(theta, x) + stats, stats

    frozen = freeze(f)
    first = stood(*images, "pgm2", frozen(weights(0), jnp.zeros(3)))
    once = len(modes)
    second = stood(*images, "pgm2", frozen(weights(1), jnp.ones(3)))
    assert len(modes) == once and set(modes) == {"eval"}
    np.testing.assert_array_equal(first, stood(*images, "pgm2"))
    assert (first != second).any()


@pytest.mark.parametrize(
    "right, n, low, high",
    [
        (0, 10, 0.0, 0.27754),
        (5, 10, 0.23659, 0.76341),
        (10, 10, 0.72246, 1.0),
        (250, 500, 0.45636, 0.54364),
    ],
)
def test_the_interval_is_wilsons(right, n, low, high):
    np.testing.assert_allclose(wilson(right / n, n), (low, high), atol=2e-5)


def test_the_interval_is_that_of_scipy_and_holds_the_accuracy():
    for right, n in ((0, 1), (1, 1), (47, 100), (499, 500), (3, 10_000)):
        low, high = wilson(right / n, n)
        expected = binomtest(right, n).proportion_ci(method="wilson")
        np.testing.assert_allclose((low, high), (expected.low, expected.high), atol=1e-6)
        assert 0 <= low <= right / n + 1e-12 and right / n - 1e-12 <= high <= 1


def test_a_table_has_aligned_columns_and_intervals():
    assert interval(0.5, 500).strip() == "50.0 % [45.6, 54.4]"
    assert interval(0.0, 10).strip() == "0.0 % [0.0, 27.8]"
    text = table(
        ("attack", "eps", "accuracy"), [("clean", "-", 1.0, 10), ("pgm10", "8/255", 0.5, 10)]
    )
    lines = text.splitlines()
    assert len(lines) == 4 and set(lines[1]) == {"-"}
    assert lines[0].split() == ["attack", "eps", "accuracy"]
    assert lines[2].index("100.0") == lines[3].index("50.0") - 1 == lines[0].index("accuracy")
    assert align([["a", "b"]]).splitlines() == ["a  b", "----"]


def test_a_radius_is_printed_as_it_was_given():
    assert attack_eps(8 / 255, 8 / 255, "8/255") == "8/255"
    assert attack_eps(0.03, 8 / 255, "8/255") == "0.03"
    assert attack_eps(0.0, 8 / 255, "8/255") == "-"
