"""Evaluation over a set: packing and batch size change nothing; a union is its parts at worst."""

import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.stats import binomtest

from l2ljax.attacks import Budget, autoattack, parse, pgd, specs
from l2ljax.attacks.cascade import batches
from l2ljax.evaluation.accuracy import evaluate, freeze, robust
from l2ljax.evaluation.results import (
    Evaluation,
    accuracy_table,
    attack_radius,
    interval,
    radius_text,
    results_from_json,
    wilson,
)
from l2ljax.terminal import align

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


def test_the_batch_size_changes_nothing(images):
    reference = stood(*images, "pgm2x2")
    assert 0 < reference.sum() < stood(*images, "clean").sum()
    for size in (1, 64):
        np.testing.assert_array_equal(stood(*images, "pgm2x2", batch_size=size), reference)


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
    clean, attacked = evaluate(slopeless, x, y, attacks="clean,pgm2", **how).results
    assert clean.warnings == () and words in attacked.warnings[0]
    assert attacked.nan_gradient == N
    result = autoattack(KEY, slopeless, x, y, version="quick", budget=TINY, **how)
    standing = result.robust.sum()  # Auto-PGD's own random start moves some
    words = f"{standing} of the {standing} images that stand have a gradient"
    assert any(words in line for line in result.warnings) and result.nan_gradient == standing
    (good,) = evaluate(Partial(logits, weights()), x, y, attacks="pgm2", **how).results
    assert good.warnings == () and good.nan_gradient == 0


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
    (result,) = evaluate(halved, *images, attacks="clean", **how).results
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


def test_an_evaluation_has_a_line_per_attack_in_print_and_in_json(images):
    f = Partial(logits, weights())
    how = {"eps": 8 / 255, "batch_size": 16, "attacks": "pgm1x2+fgsm,clean,pgm10_v1"}
    found = evaluate(f, *images, **how)
    union, clean, protocol = found.results
    assert found.accuracy == {r.attack: r.robust.mean() for r in found.results}
    assert found.intervals["clean"] == wilson(0.8, N)
    assert [step.attack for step in union.after] == ["clean", "pgm1x2", "fgsm"]
    accuracies = [step.accuracy for step in union.after]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[-1] == union.accuracy
    assert sum(step.seconds for step in union.after) == pytest.approx(union.seconds)
    lines = str(found).splitlines()
    assert [line.split()[:2] for line in lines if "%" in line] == [
        ["pgm1x2+fgsm", "8/255"],
        ["clean", f"{clean.after[0].seconds:.1f}"],
        ["pgm1x2", f"{union.after[1].seconds:.1f}"],
        ["fgsm", f"{union.after[2].seconds:.1f}"],
        ["clean", "-"],
        ["pgm10_v1", "0.03"],
    ]
    assert "largest linf perturbation" in lines[-1] and "0 claims refused" in lines[-1]
    written = json.loads(json.dumps(found.as_json()))
    assert written["results"]["pgm10_v1"]["accuracy"] == protocol.accuracy
    assert written["eps"] == "8/255" and written["images"] == N
    again = Evaluation(tuple(results_from_json(written["results"])), 8 / 255, "8/255", "linf")
    assert str(again) == str(found) and again.as_json() == written


def nudge(rng, f, x, y, *, eps, norm):
    """A user's own attack, whose draws come from one key."""
    assert norm == "linf" and rng.shape == ()
    return jnp.clip(x + eps * jax.random.rademacher(rng, x.shape, x.dtype), 0, 1)


def test_an_attack_of_ones_own_is_a_function_and_its_claims_are_checked(images):
    f, how = Partial(logits, weights()), {"eps": EPS, "batch_size": 16}

    def cheat(rng, f, x, y, *, eps, norm):
        return 1 - x

    def known(rng, f, x, y, *, eps, norm):
        how = {"steps": 2, "step_size": eps / 3, "start": "zero", "loss": "ce"}
        return pgd(rng, f, x, y, eps=eps, norm=norm, **how)

    found = evaluate(f, *images, attacks=["clean", nudge, cheat, known, parse("pgm2")], **how)
    stood = {r.attack: r.robust for r in found.results}
    assert list(stood) == ["clean", "nudge", "cheat", "known", "pgm2"]
    assert stood["nudge"].sum() < stood["clean"].sum()
    np.testing.assert_array_equal(stood["cheat"], stood["clean"])
    assert any("cheat" in line and "claims" in line for line in found.warnings)
    np.testing.assert_array_equal(stood["known"], stood["pgm2"])
    one = evaluate(f, *images, attacks=nudge, **how)
    np.testing.assert_array_equal(one.results[0].robust, stood["nudge"])


def test_an_attack_of_ones_own_that_cannot_be_played_is_one_line(images):
    f, how = Partial(logits, weights()), {"eps": EPS, "batch_size": 16}

    def few(rng, f, x):
        return x

    def none(rng, f, x, y, *, eps, norm):
        return None

    def bytes_(rng, f, x, y, *, eps, norm):
        return (255 * x).astype(jnp.uint8)

    for attack, words in (
        (few, "attack 'few' cannot be called as attack"),
        (none, "attack 'none' returned NoneType: it must return images as floats"),
        (bytes_, "attack 'bytes_' returned uint8"),
        (3.5, "not 3.5"),
        ([parse("clean"), "clean"], "'clean' is named twice"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(f, *images, attacks=attack if isinstance(attack, list) else [attack], **how)


def test_an_evaluation_that_broke_off_goes_on_from_its_file(images, tmp_path, capsys):
    f, calls = Partial(logits, weights()), []
    how = {"eps": EPS, "batch_size": 16, "state_file": tmp_path / "here.state"}

    def breaks(rng, f, x, y, *, eps, norm):
        calls.append(len(x))
        if len(calls) == 2:
            raise RuntimeError("the machine is full")
        return nudge(rng, f, x, y, eps=eps, norm=norm)

    with pytest.raises(RuntimeError, match="full"):
        evaluate(f, *images, attacks=["fgsm", breaks], **how)
    assert capsys.readouterr() == ("", "")
    again = evaluate(f, *images, attacks=["fgsm", breaks], progress=True, **how)
    assert len(calls) == 3 and "goes on from" in capsys.readouterr().err
    whole = evaluate(f, *images, attacks=["fgsm", breaks], **how | {"state_file": None})
    assert again.accuracy == whole.accuracy


def test_an_evaluation_in_a_thread_sets_no_signal_handler(images, tmp_path):
    found = []

    def work():
        how = {"eps": EPS, "batch_size": 16, "state_file": tmp_path / "here.state"}
        found.append(evaluate(Partial(logits, weights()), *images, attacks="clean", **how))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].accuracy == {"clean": 0.8}


def test_what_a_file_of_another_evaluation_says(images, tmp_path):
    path = tmp_path / "here.state"
    how = {"eps": EPS, "batch_size": 16, "state_file": path, "attacks": "clean,pgm2"}
    first = evaluate(Partial(logits, weights()), *images, **how)
    again = evaluate(Partial(logits, weights()), *images, **how | {"batch_size": 7})
    assert [r.seconds for r in again.results] == [r.seconds for r in first.results]
    x, y = images
    for f, data, changed, words in (
        (Partial(logits, weights(1)), images, {}, "classifier: "),
        (lambda x: logits(weights(), x), images, {}, "classifier: "),
        (Partial(logits, weights()), (x, (y + 1) % 3), {}, "images: "),
        (Partial(logits, weights()), images, {"seed": 1}, "seed: 0 -> 1"),
        (Partial(logits, weights()), images, {"identity": {"mine": 2}}, "mine: None -> 2"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(f, *data, **how | changed)
    with pytest.raises(ValueError, match="there is no folder"):
        evaluate(Partial(logits, weights()), *images, **how | {"state_file": tmp_path / "a/b"})


def test_every_attack_starts_from_all_images_and_reports_its_own_radius(images):
    how = {"eps": EPS, "batch_size": 16, "attacks": "fgsm,clean,pgm10_v1", "seed": 1}
    results = evaluate(Partial(logits, weights()), *images, **how).results
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
    text = accuracy_table(
        ("attack", "eps", "accuracy"), [("clean", "-", 1.0, 10), ("pgm10", "8/255", 0.5, 10)]
    )
    lines = text.splitlines()
    assert len(lines) == 4 and set(lines[1]) == {"-"}
    assert lines[0].split() == ["attack", "eps", "accuracy"]
    assert lines[2].index("100.0") == lines[3].index("50.0") - 1 == lines[0].index("accuracy")
    assert align([["a", "b"]]).splitlines() == ["a  b", "----"]


def test_a_radius_is_printed_as_it_was_given():
    assert attack_radius(8 / 255, 8 / 255, "8/255") == "8/255"
    assert attack_radius(0.03, 8 / 255, "8/255") == "0.03"
    assert attack_radius(0.0, 8 / 255, "8/255") == "-"
    assert [radius_text(eps) for eps in (8 / 255, 0.2, 1.5)] == ["8/255", "0.2", "1.5"]
