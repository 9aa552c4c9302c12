"""The cascade of AutoAttack: what it promises whatever the classifier, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from l2ljax.attacks import Budget, autoattack, checks
from l2ljax.attacks.autoattack import OFFICIAL, PARTS, VERSIONS
from l2ljax.losses import dlr

KEY = jax.random.key(3)
EPS = 0.08
SHORT = Budget(apgd_steps=10, fab_steps=8, targets=3, square_queries=40, eot=2)
SETTINGS = {"eps": EPS, "batch_size": 16, "budget": SHORT}


def weights(classes=5, seed=0):
    a, b = jax.random.split(jax.random.key(seed))
    return {
        "a": jax.random.normal(a, (16, 12)) / 2,
        "b": jax.random.normal(b, (12, classes)),
    }


def logits(theta, x):
    return jnp.tanh((x.reshape(len(x), -1) - 0.5) @ theta["a"]) @ theta["b"]


def labelled(n=40, classes=5):
    """Images, labels of which every eighth is wrong, and the classifier."""
    f = Partial(logits, weights(classes))
    x = np.array(jax.random.uniform(jax.random.key(9), (n, 4, 4, 1)))
    y = np.array(f(x).argmax(-1))
    y[::8] = (y[::8] + 1) % classes
    return f, x, y


def test_the_versions_are_the_official_ones():
    assert VERSIONS["standard"] == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert VERSIONS["rand"] == ("apgd-ce", "apgd-dlr")
    assert OFFICIAL[:5] == (100, 100, 9, 5000, 20)


@pytest.mark.parametrize("norm, eps", [("linf", EPS), ("l2", 0.25)])
def test_an_image_is_robust_if_every_attack_fails(norm, eps):
    f, x, y = labelled()
    result = autoattack(KEY, f, x, y, **SETTINGS | {"norm": norm, "eps": eps})
    right = np.asarray(f(x).argmax(-1)) == y
    assert list(result.accuracy) == ["clean", *VERSIONS["standard"]]
    accuracies = list(result.accuracy.values())
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[0] == right.mean()
    assert accuracies[-1] == result.robust.mean() and 0 < accuracies[-1] < accuracies[0]
    assert (result.robust <= right).all() and result.refused == 0
    fooled = np.asarray(f(result.x_adv).argmax(-1)) != y
    np.testing.assert_array_equal(fooled, ~result.robust)
    unmoved = result.robust | ~right
    np.testing.assert_array_equal(result.x_adv[unmoved], x[unmoved])
    delta = (result.x_adv - x).reshape(len(x), -1)
    length = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
    assert length.max() <= eps + 1e-6 and 0 <= result.x_adv.min() and result.x_adv.max() <= 1


@pytest.mark.parametrize("name", PARTS)
def test_each_attack_alone_beats_chance_and_not_the_cascade(name):
    f, x, y = labelled()
    alone = autoattack(KEY, f, x, y, attacks=[name], **SETTINGS)
    assert list(alone.accuracy) == ["clean", name] and alone.version == name
    assert alone.robust.mean() < alone.accuracy["clean"] - 0.1
    first = autoattack(KEY, f, x, y, attacks=[name, "apgd-ce"], **SETTINGS)
    assert (first.robust <= alone.robust).all() and first.accuracy[name] == alone.robust.mean()


def test_quick_is_called_quick():
    f, x, y = labelled()
    quick = autoattack(KEY, f, x, y, version="quick", **SETTINGS)
    whole = autoattack(KEY, f, x, y, **SETTINGS)
    assert (quick.version, whole.version) == ("quick", "standard")
    assert list(quick.accuracy) == ["clean", "apgd-ce", "apgd-t"]
    assert (whole.robust <= quick.robust).all()


@pytest.mark.parametrize("classes", [2, 3, 8])
def test_few_classes_will_do_and_are_told(classes):
    f, x, y = labelled(24, classes)
    result = autoattack(KEY, f, x, y, **SETTINGS | {"budget": SHORT._replace(targets=9)})
    assert 0 < result.robust.mean() < result.accuracy["clean"]
    assert any(line.startswith(f"{classes} classes") for line in result.warnings)


def test_the_batch_size_changes_nothing():
    f, x, y = labelled(20)
    reference = autoattack(KEY, f, x, y, **SETTINGS)
    for batch_size in (1, 7):
        other = autoattack(KEY, f, x, y, **SETTINGS | {"batch_size": batch_size})
        assert other.accuracy == reference.accuracy
        np.testing.assert_array_equal(other.robust, reference.robust)


def test_a_model_that_is_never_right_and_one_that_always_stands():
    f, x, y = labelled(8)
    wrong = (np.asarray(f(x).argmax(-1)) + 1) % 5
    never = autoattack(KEY, f, x, wrong, **SETTINGS)
    assert not never.robust.any() and set(never.accuracy.values()) == {0.0}
    always = autoattack(KEY, lambda x: jnp.eye(5)[jnp.zeros(len(x), int)], x, y * 0, **SETTINGS)
    assert always.robust.all() and (always.x_adv == x).all()


def test_two_sets_of_weights_are_one_trace():
    traces = []

    def counted(theta, x):
        if isinstance(x, jax.core.Tracer):
            traces.append(x.shape)
        return logits(theta, x)

    _, x, y = labelled(20)
    autoattack(KEY, Partial(counted, weights()), x, y, **SETTINGS)
    once = len(traces)
    for n in (20, 3, 17):
        autoattack(KEY, Partial(counted, weights(seed=n)), x[:n], y[:n], **SETTINGS)
    assert len(traces) == once > 0 and {shape[0] for shape in traces} == {16}


def test_an_interrupted_attack_goes_on_where_it_was():
    f, x, y = labelled()
    states = []
    whole = autoattack(
        KEY, f, x, y, on_progress=lambda s: states.append(jax.tree.map(np.array, s)), **SETTINGS
    )
    assert len(states) > 10
    for state in states[:: len(states) // 4]:
        rest = autoattack(KEY, f, x, y, state=state, **SETTINGS)
        assert rest.accuracy == whole.accuracy
        np.testing.assert_array_equal(rest.x_adv, whole.x_adv)


def test_bytes_are_pixels_too():
    f, x, _ = labelled(20)
    x = (255 * x).round().astype(np.uint8)
    y = np.array(f(x / np.float32(255)).argmax(-1))
    result = autoattack(KEY, f, x, y, **SETTINGS)
    same = autoattack(KEY, f, x * np.float32(1 / 255), y, **SETTINGS)
    np.testing.assert_array_equal(result.robust, same.robust)
    assert result.x_adv.dtype == np.float32 and result.accuracy["clean"] == 1


def noisy(theta, x, key):
    return logits(theta, x) + 0.3 * jax.random.normal(key, (len(x), 5))


def test_a_random_classifier_is_attacked_on_average():
    f, x, y = labelled(24)
    result = autoattack(KEY, Partial(noisy, weights()), x, y, version="rand", **SETTINGS)
    assert list(result.accuracy) == ["clean", "apgd-ce", "apgd-dlr"]
    plain = autoattack(KEY, f, x, y, attacks=["apgd-ce", "apgd-dlr"], **SETTINGS)
    assert abs(result.robust.mean() - plain.robust.mean()) < 0.2
    assert 0 < result.robust.mean() < result.accuracy["clean"]
    with pytest.raises(ValueError, match=r"square cannot attack a classifier f\(x, rng\)"):
        autoattack(
            KEY, Partial(noisy, weights()), x, y, version="rand", attacks=["square"], **SETTINGS
        )


def test_a_random_classifier_is_judged_alike_in_batches_of_any_size():
    """What an image draws comes from its index, not from its place in a batch or its mates."""
    _, x, y = labelled(60)
    f = Partial(noisy, weights())
    found = [
        autoattack(KEY, f, x, y, version="rand", **SETTINGS | {"batch_size": size, "eps": 0.05})
        for size in (16, 7)
    ]
    assert 0 < found[0].robust.sum() < found[0].accuracy["clean"] * 60
    np.testing.assert_array_equal(found[1].robust, found[0].robust)
    assert found[1].accuracy == found[0].accuracy


def good():
    f, x, y = labelled(6)
    return {"f": f, "x": x, "y": y, **SETTINGS}


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"version": "standart"}, "unknown version 'standart': did you mean 'standard'"),
        ({"attacks": ["apgd"]}, "unknown attack 'apgd': did you mean 'apgd-"),
        ({"norm": "l1"}, "unknown norm 'l1'"),
        ({"eps": 0.0}, "eps=0.0 must be a number above 0"),
        ({"eps": 8}, "eps=8 is outside"),
        ({"eps": np.nan}, "eps=nan must be a number above 0"),
        ({"x": np.full((6, 4, 4, 1), 1.1)}, r"reach from 1.1 to 1.1 and must lie in \[0, 1\]"),
        ({"x": np.full((6, 4, 4, 1), -1e-4)}, "reach from -0.0001"),
        ({"x": np.full((6, 4, 4, 1), np.nan)}, "x holds NaN"),
        ({"x": np.zeros((6, 16))}, r"images \[N, H, W, C\]; its shape is \[6, 16\]"),
        ({"x": np.zeros((0, 4, 4, 1)), "y": np.zeros(0, int)}, "holds no pixel"),
        ({"x": np.zeros((6, 4, 4, 1), int)}, "x is int64: pass uint8 pixels, or floats in .0, 1."),
        ({"y": np.zeros(5, int)}, r"6 class indices, one an image; it is \[5\]"),
        ({"y": np.zeros(6)}, "y is float64: class indices are whole numbers"),
        ({"y": np.full(6, 5)}, "reaches from 5 to 5, and the classifier has 5 classes"),
        ({"y": np.full(6, -1)}, "reaches from -1 to -1"),
        ({"f": lambda x: x}, r"must return logits \[N, K\]"),
        ({"f": lambda x: x.mean((1, 2, 3))}, r"must return logits \[N, K\]"),
        ({"f": lambda x: x.reshape(len(x), -1).sum(0)[None]}, r"must return logits \[N, K\]"),
        ({"f": lambda x: x.reshape(len(x), -1) * jnp.nan}, "NaN or infinite for 6 of the first 6"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number above 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(wrong, words):
    given = good() | wrong
    f, x, y = (given.pop(name) for name in "fxy")
    with pytest.raises(ValueError, match=words) as info:
        autoattack(KEY, f, x, y, **given)
    assert len(str(info.value).splitlines()) == 1


def test_pixels_within_rounding_of_the_box_pass():
    f, x, y = labelled(6)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = -5e-7, 1 + 5e-7
    result = autoattack(KEY, f, x, y, attacks=["apgd-ce"], **SETTINGS)
    assert result.refused == 0


def warned(f, n=12):
    _, x, y = labelled(n)
    result = autoattack(KEY, f, x, y, attacks=["apgd-dlr"], **SETTINGS)
    return " ".join(result.warnings)


def test_what_the_official_suite_warns_of_is_told():
    theta = weights()
    rng = np.random.default_rng(0)
    cases = {
        "random": lambda x: logits(theta, x) + rng.normal(size=5),
        "probabilities": lambda x: jax.nn.softmax(logits(theta, x)),
        "gradient of exactly zero": lambda x: logits(theta, jax.lax.stop_gradient(x)),
    }
    for words, f in cases.items():
        assert words in warned(f)
    assert warned(Partial(logits, theta)) == ""


def test_where_dlr_is_constant_a_gradient_of_zero_is_no_sign_of_masking():
    """The label is third in the order of the logits; all numbers are exact in float32."""

    def f(x):
        return 2 * x.mean((1, 2, 3))[:, None] * jnp.arange(5.0)

    x, y = np.full((4, 4, 4, 1), 0.5, np.float32), np.full(4, 2)
    assert not jax.grad(lambda x: dlr(f(x), jnp.asarray(y)).sum())(x).any()
    assert checks.zero_gradient(f, checks.first_batch(x, y, 4)) is None
    masked = Partial(lambda x: f(jax.lax.stop_gradient(x)))
    assert "4 of 4 images" in str(checks.zero_gradient(masked, checks.first_batch(x, y + 2, 4)))


def test_channels_where_the_height_belongs_are_told():
    """A net of dense layers takes them; the windows of Square would lie across the channels."""
    x = np.array(jax.random.uniform(KEY, (4, 1, 4, 4)))
    f = Partial(logits, weights())
    y = np.array(f(x).argmax(-1))
    result = autoattack(KEY, f, x, y, attacks=["apgd-ce"], **SETTINGS)
    assert any("looks like NCHW" in line for line in result.warnings)


def test_square_is_watched():
    """A classifier without a gradient falls to Square alone, and that is said."""
    theta, (_, x, y) = weights(), labelled()
    result = autoattack(KEY, lambda x: logits(theta, jnp.round(20 * x) / 20), x, y, **SETTINGS)
    assert result.accuracy["square"] < result.accuracy["fab-t"]
    assert any("Square lowered the accuracy by" in line for line in result.warnings)


def test_square_is_blamed_on_masking_only_after_an_attack_with_a_gradient():
    """Alone it lowers the accuracy of every classifier."""
    fell = {"clean": 0.9, "apgd-ce": 0.6, "square": 0.5}
    assert "by 10.0 points" in checks.square_helps(fell)
    assert checks.square_helps({"clean": 0.9, "square": 0.5}) is None
    assert checks.square_helps(fell | {"square": 0.6}) is None
    assert checks.square_helps({"clean": 0.9, "apgd-ce": 0.6}) is None
