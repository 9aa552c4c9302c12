import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from scipy.special import log_softmax

from games import seen
from l2ljax import losses
from l2ljax.types import Inner, Problem

LOGITS = np.array([[2.0, 1.0, -1.0], [0.5, 0.5, 3.0], [1.0, 4.0, 0.0]], np.float32)
Y = np.array([0, 1, 1])


def a_problem(x):
    """What a training loss sees of a problem that is solved."""
    return Problem(None, x, jnp.asarray(Y), 0.1, None, train=True)


def test_cross_entropy_matches_numpy_for_labels_and_soft_labels():
    expected = -log_softmax(LOGITS, axis=1)[np.arange(3), Y]
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, Y), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, np.eye(3)[Y]), expected, rtol=1e-5)


def test_smoothing_takes_alpha_from_the_label_and_spreads_it():
    soft = losses.smooth(jnp.asarray(Y), 3, 0.3)
    np.testing.assert_allclose(soft[0], [0.8, 0.1, 0.1], rtol=1e-5)


def test_margin_is_positive_exactly_when_misclassified():
    margins = np.asarray(losses.margin(LOGITS, Y))
    np.testing.assert_allclose(margins, [-1.0, 2.5, -3.0])
    np.testing.assert_array_equal(margins > 0, LOGITS.argmax(1) != Y)


def test_hinge_is_the_margin_plus_one_cut_at_zero():
    expected = np.maximum(0, 1 + np.asarray(losses.margin(LOGITS, Y)))
    np.testing.assert_allclose(losses.hinge(LOGITS, Y), expected, rtol=1e-5)


def test_kl_matches_numpy_and_vanishes_on_itself():
    p = log_softmax(LOGITS[::-1], axis=1)
    expected = (np.exp(p) * (p - log_softmax(LOGITS, axis=1))).sum(1)
    np.testing.assert_allclose(losses.kl(p, LOGITS), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.kl(log_softmax(LOGITS, axis=1), LOGITS), 0, atol=1e-6)


@pytest.mark.parametrize("name", losses.ATTACK_LOSSES)
def test_every_attack_loss_gives_one_number_per_example(name):
    def f(theta, x):
        return x.reshape(len(x), -1)[:, :3] * theta

    x = jax.random.uniform(jax.random.key(0), (4, 2, 2, 1))
    ell = losses.ATTACK_LOSSES[name](seen(f), 2.0, {}, x, jnp.array([0, 1, 2, 0]))
    values = ell(3.0, x + 0.1)
    assert values.shape == (4,) and float(jnp.abs(values).max()) > 0


def test_kl_takes_the_clean_logits_as_constants():
    def f(theta, x):
        return x.reshape(len(x), -1) * theta

    x = jax.random.uniform(jax.random.key(0), (2, 2, 2, 1))

    def total(theta, reference):
        ell = losses.ATTACK_LOSSES["kl"](seen(f), reference, {}, x, jnp.array([0, 1]))
        return ell(theta, x + 0.1).sum()

    assert jax.grad(total, argnums=1)(2.0, 1.5) == 0.0
    assert jax.grad(total, argnums=0)(2.0, 1.5) != 0.0


def test_clean_mix_weighs_clean_and_attacked_by_one_to_beta():
    def f(theta, stats, x, draw=0):
        return x.reshape(len(x), -1)[:, :3], stats + 1

    x = jnp.asarray(LOGITS).reshape(3, 1, 3, 1)
    inner = Inner(delta=jnp.full_like(x, 0.25).at[:, 0, 0, 0].set(1.0))
    loss, stats, metrics = losses.clean_mix(2.0, 0.0)(f, a_problem(x), None, 0, inner)
    clean = losses.cross_entropy(LOGITS, Y).mean()
    attacked = losses.cross_entropy((x + inner.delta).reshape(3, 3), Y).mean()
    np.testing.assert_allclose(loss, (clean + 2 * attacked) / 3, rtol=1e-5)
    assert stats == 2, "statistics see clean, then attacked"
    assert set(metrics) == {"theta/clean_accuracy", "theta/robust_accuracy"}


def test_a_solvers_soft_labels_replace_the_labels():
    def f(theta, stats, x):
        return jnp.asarray(LOGITS), stats

    soft = jnp.full((3, 3), 1 / 3)
    inner = Inner(delta=jnp.zeros((3, 1, 3, 1)), y=soft)
    loss, _, _ = losses.adversarial(0.0)(f, a_problem(inner.delta), None, 0, inner)
    np.testing.assert_allclose(loss, losses.cross_entropy(LOGITS, soft).mean(), rtol=1e-5)


def numpy_dlr(z, y):
    """Croce and Hein 2020, equation 3, with the sign that an attack climbs."""
    order = np.sort(z)[::-1]
    return (np.delete(z, y).max() - z[y]) / (order[0] - order[2] + 1e-12)


def numpy_dlr_targeted(z, y, t):
    """The same, equation 4."""
    order = np.sort(z)[::-1]
    return (z[t] - z[y]) / (order[0] - (order[2] + order[3]) / 2 + 1e-12)


Z = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
TIED = np.array(
    [[1, 1, 0, -1, -1], [1, 1, 1, 0, 0], [2, 1, 1, 1, 1], [3, 0, 0, 0, -2], [1, 1, 1, 1, 0]],
    np.float32,
)


def labels(z, k):
    return jnp.asarray((np.arange(len(z)) + k) % z.shape[1])


@pytest.mark.parametrize("z", [Z, TIED], ids=["random", "ties"])
def test_dlr_matches_numpy_whatever_the_label_and_the_ties(z):
    for k in range(z.shape[1]):
        y = labels(z, k)
        expected = [numpy_dlr(*pair) for pair in zip(z.astype(np.float64), y, strict=True)]
        np.testing.assert_allclose(losses.dlr(z, y), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("z", [Z, TIED[[0, 2, 3]]], ids=["random", "ties"])
def test_the_targeted_dlr_matches_numpy_whatever_the_target_and_the_ties(z):
    for k in range(1, z.shape[1]):
        y, t = labels(z, 0), labels(z, k)
        rows = zip(z.astype(np.float64), y, t, strict=True)
        expected = [numpy_dlr_targeted(*row) for row in rows]
        np.testing.assert_allclose(losses.dlr_targeted(z, y, t), expected, rtol=1e-4, atol=1e-6)


def test_a_positive_dlr_is_a_misclassification():
    y = labels(Z, 0)
    np.testing.assert_array_equal(np.asarray(losses.dlr(Z, y)) > 0, Z.argmax(1) != y)


def test_dlr_does_not_see_the_scale_of_the_logits():
    y, t = labels(Z, 0), labels(Z, 1)
    np.testing.assert_allclose(losses.dlr(1e3 * Z + 7, y), losses.dlr(Z, y), rtol=2e-3)
    scaled = losses.dlr_targeted(1e3 * Z + 7, y, t)
    np.testing.assert_allclose(scaled, losses.dlr_targeted(Z, y, t), rtol=2e-3)


def test_dlr_of_three_classes_divides_by_first_less_third():
    z = Z[:, :3]
    y, t = labels(z, 0), labels(z, 1)
    expected = [numpy_dlr(*pair) for pair in zip(z.astype(np.float64), y, strict=True)]
    np.testing.assert_allclose(losses.dlr(z, y), expected, rtol=1e-4)
    order, rows = np.sort(z, 1), np.arange(len(z))
    gap = (z[rows, t] - z[rows, y]) / (order[:, 2] - order[:, 0])
    np.testing.assert_allclose(losses.dlr_targeted(z, y, t), gap, rtol=1e-4)


def test_dlr_of_two_classes_is_the_margin():
    z = Z[:, :2]
    y = labels(z, 0)
    np.testing.assert_array_equal(losses.dlr(z, y), losses.margin(z, y))
    np.testing.assert_array_equal(losses.dlr_targeted(z, y, 1 - y), losses.margin(z, y))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_dlr_gradients_match_differences(classes):
    """In steps of 1e-3: away from ties both losses are smooth."""
    z = jnp.asarray(Z[:10, :classes])
    gaps = np.diff(np.sort(z, axis=1), axis=1).min(1)
    z = z[gaps > 0.01]
    y, t = labels(z, 0), labels(z, 1)
    assert len(z) > 5
    for loss in (losses.dlr, lambda z, y: losses.dlr_targeted(z, y, t)):
        gradient = jax.grad(lambda z, loss=loss: loss(z, y).sum())(z)
        for k in range(classes):
            step = 1e-3 * jax.nn.one_hot(k, classes)
            slope = (loss(z + step, y) - loss(z - step, y)) / 2e-3
            np.testing.assert_allclose(gradient[:, k], slope, rtol=0.01, atol=2e-3)


def test_the_gradients_of_tied_logits_are_finite():
    z = jnp.concatenate([jnp.asarray(TIED), jnp.zeros((1, 5))])
    y, t = labels(z, 0), labels(z, 1)
    for loss in (losses.dlr, losses.margin, lambda z, y: losses.dlr_targeted(z, y, t)):
        gradient = jax.grad(lambda z, loss=loss: loss(z, y).sum())(z)
        assert bool(jnp.isfinite(loss(z, y)).all()) and bool(jnp.isfinite(gradient).all())


def test_trades_is_the_clean_loss_and_beta_times_the_kl_to_the_attacked_image():
    """Both arguments of the KL learn: half of its slope would be missing otherwise."""

    x = jnp.asarray(LOGITS).reshape(3, 1, 3, 1)
    inner = Inner(delta=jnp.zeros_like(x).at[:, 0, 0, 0].set(1.5))

    def f(theta, stats, z, draw=0):
        digit = jnp.where((z == x).all(), 1, 2)
        return theta * z.reshape(len(z), -1), 10 * stats + digit

    def numpy_loss(theta):
        p, q = (
            log_softmax(theta * np.asarray(v).reshape(3, 3), axis=1) for v in (x, x + inner.delta)
        )
        return (-p[np.arange(3), Y] + 6.0 * (np.exp(p) * (p - q)).sum(1)).mean()

    def loss(theta):
        value, stats, metrics = losses.trades(6.0, 0.0)(f, a_problem(x), theta, 0, inner)
        return value, (stats, metrics)

    (value, (stats, metrics)), slope = jax.value_and_grad(loss, has_aux=True)(0.8)
    np.testing.assert_allclose(value, numpy_loss(0.8), rtol=1e-5)
    np.testing.assert_allclose(slope, (numpy_loss(0.81) - numpy_loss(0.79)) / 0.02, rtol=1e-3)
    assert stats == 121, "statistics see clean, attacked, and clean again"
    assert set(metrics) >= {"theta/kl", "theta/clean_accuracy", "theta/robust_accuracy"}


def test_the_cosine_is_per_example_and_safe_for_zero_and_for_tiny_vectors():
    a = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0], [1.0, 0.0]])
    b = jnp.array([[4.0, 3.0], [1.0, 1.0], [2e-30, 2e-30], [-2.0, 0.0]])
    np.testing.assert_allclose(losses.cosine(a, b), [0.96, 0, np.sqrt(0.5), -1], rtol=1e-6)
    slopes = jax.grad(lambda a: losses.cosine(a, b).sum())(a)
    assert bool(jnp.isfinite(slopes).all())
    exact = jax.test_util.check_grads
    exact(
        lambda a: losses.cosine(a, b[:1]), (a[:1],), order=1, modes=("rev",), atol=1e-2, rtol=1e-2
    )


@pytest.mark.parametrize(
    "train_loss, draws", [(losses.trades(1.0, 0.0), [0, 1]), (losses.clean_mix(1.0, 0.0), [0, 1])]
)
def test_each_pass_of_a_loss_has_a_dropout_mask_of_its_own(train_loss, draws):
    seen = []

    def f(theta, stats, x, draw=0):
        seen.append(draw)
        return x.reshape(len(x), -1)[:, :3], stats

    x = jnp.asarray(LOGITS).reshape(3, 1, 3, 1)
    train_loss(f, a_problem(x), None, {}, Inner(jnp.zeros_like(x)))
    # The second pass that TRADES makes over the clean images gives the logits of the first.
    assert seen[:2] == draws and set(seen) == {0, 1}
