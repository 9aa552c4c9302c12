import jax
import jax.numpy as jnp
import numpy as np

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
    half = ball.uniform(ball.per_image(jax.random.key(0), 3, first=3), x[3:], 0.1)
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
