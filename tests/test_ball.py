import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import kstest

from l2ljax import ball


def test_projection_is_sign_times_min():
    delta = jnp.array([-0.5, -0.05, 0.0, 0.05, 0.5])
    expected = np.sign(delta) * np.minimum(np.abs(delta), np.float32(0.1))
    np.testing.assert_array_equal(ball.project(delta, 0.1), expected)


def test_box_never_leaves_the_unit_interval_by_a_single_bit():
    x = jax.random.uniform(jax.random.key(0), (100_000,))
    delta = jax.random.normal(jax.random.key(1), x.shape)
    cut = ball.box(x, delta)
    assert float((x + cut).min()) >= 0.0 and float((x + cut).max()) <= 1.0
    assert bool((jnp.abs(cut) <= jnp.abs(delta)).all())


def test_a_pixel_on_the_box_passes_no_gradient():
    x = jnp.array([0.0, 0.5])
    gradient = jax.grad(lambda d: ball.box(x, d).sum())(jnp.array([0.0, 0.0]))
    np.testing.assert_array_equal(gradient, [0.0, 1.0])


def test_an_images_draw_depends_on_its_global_row_alone():
    x = jnp.full((6, 4, 4, 1), 0.5)
    whole = ball.uniform(jax.random.key(0), x, 0.1)
    half = ball.uniform(ball.per_image(jax.random.key(0), jnp.arange(3, 6)), x[3:], 0.1)
    np.testing.assert_array_equal(whole[3:], half)
    assert not np.array_equal(whole[0], whole[1])


def test_starts_lie_in_ball_and_box_and_fill_them():
    x = jax.random.uniform(jax.random.key(2), (32, 4, 4, 1))
    for name, start in ball.STARTS.items():
        delta = start(jax.random.key(3), x, 0.3)
        assert float(jnp.abs(delta).max()) <= 0.3, name
        assert 0 <= float((x + delta).min()) and float((x + delta).max()) <= 1, name
    assert float(jnp.abs(ball.uniform(jax.random.key(3), x, 0.3)).max()) > 0.29
    spread = float(ball.gaussian(jax.random.key(3), jnp.full((64, 8, 8, 1), 0.5), 0.001).std())
    assert abs(spread - 0.001) < 1e-4


def images(n, low=0.0, high=1.0):
    return jax.random.uniform(jax.random.key(2), (n, 4, 4, 1), minval=low, maxval=high)


def lengths(delta):
    return np.linalg.norm(np.asarray(delta, np.float64).reshape(len(delta), -1), axis=1)


def test_the_size_of_a_perturbation_in_both_norms():
    delta = np.asarray(images(5)) - 0.5
    linf, l2 = (ball.size(jnp.asarray(delta), norm) for norm in ball.NORMS)
    assert linf.shape == l2.shape == (5, 1, 1, 1)
    np.testing.assert_array_equal(linf.ravel(), np.abs(delta).reshape(5, -1).max(1))
    np.testing.assert_allclose(l2.ravel(), lengths(delta), rtol=1e-6)


def test_the_l2_projection_shortens_what_is_outside_and_leaves_the_rest():
    delta = (images(6) - 0.5) * jnp.array([1e-9, 0.01, 0.1, 1, 10, 1e9])[:, None, None, None]
    out, before, eps = ball.project_l2(delta, 0.3), lengths(delta), 0.3
    inside = before <= eps
    assert 0 < inside.sum() < 6
    np.testing.assert_array_equal(out[inside], delta[inside])
    np.testing.assert_allclose(lengths(out), np.minimum(before, eps), rtol=1e-6)
    expected = np.asarray(delta) * np.minimum(1, eps / before)[:, None, None, None]
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    np.testing.assert_array_equal(ball.project_l2(0 * delta, 0.3), 0 * delta)


def test_the_l2_projection_is_the_nearest_point_of_the_ball():
    delta = images(3) * 5
    near = ball.project_l2(delta, 0.7)
    other = 0.7 * ball.steepest(jax.random.normal(jax.random.key(1), (500, *delta.shape[1:])), "l2")
    for mine, point in zip(near, delta, strict=True):
        assert lengths(other - point).min() > lengths((mine - point)[None])[0]


def test_no_direction_of_unit_norm_gains_more_than_the_steepest():
    u = jax.random.normal(jax.random.key(1), (3, 4, 4, 1))
    others = jax.random.normal(jax.random.key(2), (500, 4, 4, 1))
    for norm in ball.NORMS:
        d, others = ball.steepest(u, norm), others / ball.size(others, norm)
        np.testing.assert_allclose(ball.size(d, norm), 1, rtol=1e-6)
        gains = jnp.einsum("bhwc,nhwc->bn", u, others)
        assert bool(((u * d).sum((1, 2, 3)) > gains.max(1)).all()), norm


def test_the_steepest_direction_has_full_length_for_any_gradient_but_none():
    u = jax.random.normal(jax.random.key(1), (4, 4, 4, 1))
    u *= jnp.array([1e-30, 1.0, 1e30, 0.0])[:, None, None, None]
    for norm in ball.NORMS:
        d = ball.steepest(u, norm)
        np.testing.assert_allclose(ball.size(d, norm).ravel(), [1, 1, 1, 0], rtol=1e-5)


def test_a_nan_gradient_is_no_direction():
    u = jnp.ones((2, 4, 4, 1)).at[1].set(jnp.nan)
    for norm in ball.NORMS:
        d = ball.steepest(u, norm)
        assert bool((d[0] > 0).all()) and bool((d[1] == 0).all()), norm


def test_the_l2_start_is_uniform_in_the_ball():
    """Radii: P(r <= t) = t^d. Directions: the mean is 0, every pixel's variance eps^2 / (d + 2)."""
    n, d, eps = 4000, 16, 0.3
    delta = ball.uniform_l2(jax.random.key(3), jnp.full((n, 4, 4, 1), 0.5), eps)
    radii = lengths(delta) / eps
    assert radii.max() <= 1 + 1e-6
    distance = kstest(radii**d, "uniform").statistic
    assert distance < 1.63 / np.sqrt(n), "the 1 % point of Kolmogorov and Smirnov"
    flat = np.asarray(delta).reshape(n, d) / eps
    covariance = flat.T @ flat / n * (d + 2)
    np.testing.assert_allclose(flat.mean(0), 0, atol=4 / np.sqrt(n * (d + 2)))
    np.testing.assert_allclose(covariance, np.eye(d), atol=0.1)
    assert abs(np.corrcoef(radii, flat[:, 0])[0, 1]) < 0.06, "direction tells nothing of radius"


def test_an_images_l2_draw_depends_on_its_own_key_alone():
    x = images(6)
    whole = ball.uniform_l2(jax.random.key(0), x, 0.1)
    rows = ball.per_image(jax.random.key(0), 6)[jnp.array([4, 1])]
    np.testing.assert_array_equal(ball.uniform_l2(rows, x[jnp.array([4, 1])], 0.1), whole[4:0:-3])
    assert not np.array_equal(whole[0], whole[1])


def test_l2_starts_lie_in_ball_and_box():
    x = images(64).round()  # half of every draw is cut
    for name, start in ball.STARTS_L2.items():
        delta = ball.project_l2(start(jax.random.key(3), x, 0.3), 0.3)
        assert lengths(delta).max() <= 0.3 + 1e-6, name
        assert 0 <= float((x + delta).min()) and float((x + delta).max()) <= 1, name
    assert set(ball.STARTS_L2) == set(ball.STARTS)


def test_scale_takes_bytes_to_the_unit_interval_and_leaves_floats():
    x = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(ball.scale(x), np.arange(256, dtype="f4") * np.float32(1 / 255))
    np.testing.assert_array_equal(ball.scale(jnp.array([0.0, 0.3])), np.float32([0, 0.3]))


def test_noise_may_leave_the_box_and_the_uniform_start_is_what_is_inside():
    x = jnp.zeros((4, 3, 3, 1))
    rng = jax.random.key(0)
    drawn = ball.noise(rng, x, 0.2)
    assert -0.2 <= float(drawn.min()) < -0.1 and 0.1 < float(drawn.max()) <= 0.2
    np.testing.assert_array_equal(ball.uniform(rng, x, 0.2), jnp.maximum(drawn, 0))


def test_the_box_does_not_push_a_pixel_that_lies_outside_it():
    x = jnp.array([3.0, 3.0, -2.0, -2.0, 0.5])
    delta = jnp.array([0.1, -0.1, 0.1, -0.1, 0.1])
    np.testing.assert_allclose(ball.box(x, delta), [0.0, -0.1, 0.1, 0.0, 0.1])


def test_the_l2_ball_has_finite_slopes_at_zero():
    """A learned attacker of the l2 ball may well put out a perturbation of exactly zero."""
    zero, weights = jnp.zeros((2, 3, 3, 1)), jnp.arange(18.0).reshape(2, 3, 3, 1)
    for g in (
        lambda d: ball.size(d, "l2").sum(),
        lambda d: (weights * ball.project_l2(d, 0.5)).sum(),
        lambda d: (weights * ball.steepest(d, "l2")).sum(),
    ):
        slope = np.asarray(jax.grad(g)(zero))
        assert np.isfinite(slope).all() and np.abs(slope).max() < 1e3
    np.testing.assert_allclose(ball.size(weights, "l2").ravel(), np.sqrt([204, 1581]), rtol=1e-6)


def test_a_step_in_radii_follows_the_radius_and_a_number_does_not():
    assert ball.length(ball.Radii(1.25), 0.1) == 0.125
    assert ball.length(0.02, 0.1) == 0.02
