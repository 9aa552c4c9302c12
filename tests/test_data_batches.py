import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2ljax.ball import per_image, scale
from l2ljax.data import epoch_order, take_batch
from l2ljax.data.batches import AUGMENTS, Augment, pad_width

N, B = 50, 8
KEY = jax.random.key(3)


def images(size=16, channels=3, n=N):
    return jnp.asarray(
        np.random.default_rng(0).integers(0, 256, (n, size, size, channels), "uint8")
    )


@pytest.fixture(scope="module")
def batch():
    return jax.jit(take_batch, static_argnames=("batch_size", "augment"))


def test_every_byte_is_scaled_alike_by_numpy_eagerly_and_under_jit(batch):
    x = jnp.arange(256, dtype=jnp.uint8).reshape(256, 1, 1, 1)
    order, y = jnp.arange(256), jnp.zeros(256, jnp.int32)
    out, _ = batch(KEY, x, y, order, 0, batch_size=256, augment="none")
    expected = np.arange(256, dtype=np.uint8).astype(np.float32) * np.float32(1 / 255)
    assert out.dtype == jnp.float32 and (np.asarray(out).ravel() == expected).all()
    assert (np.asarray(scale(x)).ravel() == expected).all()
    assert expected[0] == 0 and expected[255] == 1
    assert (np.round(expected * 255) == np.arange(256)).all()


def test_floats_pass_unscaled(batch):
    x = images() / np.float32(255)
    out, _ = batch(KEY, x, jnp.zeros(N, jnp.int32), jnp.arange(N), 1, batch_size=B, augment="none")
    assert (out == x[B : 2 * B]).all()


def test_an_epoch_visits_every_image_at_most_once_with_its_label(batch):
    x = jnp.broadcast_to(jnp.arange(N, dtype=jnp.uint8).reshape(N, 1, 1, 1), (N, 8, 8, 1))
    order, y = epoch_order(0, 0, 0, N), 2 * jnp.arange(N)
    seen = []
    for i in range(N // B):
        out, labels = batch(KEY, x, y, order, i, batch_size=B, augment="none")
        ids = np.round(np.asarray(out[:, 0, 0, 0]) * 255).astype(int)
        assert (2 * ids == np.asarray(labels)).all() and labels.dtype == jnp.int32
        seen += ids.tolist()
    assert len(seen) == N - N % B == len(set(seen))


def test_order_is_a_permutation_that_only_seed_epoch_and_rollbacks_change():
    first = epoch_order(0, 0, 0, N)
    assert first.dtype == jnp.int32 and sorted(first.tolist()) == list(range(N))
    assert (first == epoch_order(0, 0, 0, N)).all()
    others = [epoch_order(*args, N) for args in [(1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len({tuple(order.tolist()) for order in [first, *others]}) == 4


def test_epochs_do_not_share_the_keys_of_steps():
    step_key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 5)
    assert (epoch_order(0, 5, 0, N) != jax.random.permutation(step_key, N)).any()


@pytest.mark.parametrize("augment", [n for n, how in AUGMENTS.items() if isinstance(how, Augment)])
def test_crop_and_flip_equal_numpys_for_the_same_draw(batch, augment):
    x, pad, how = images(), 2, AUGMENTS[augment]
    order = epoch_order(0, 0, 0, N)
    out, _ = batch(KEY, x, jnp.zeros(N, jnp.int32), order, 2, batch_size=B, augment=augment)
    flips = 0
    for row in range(B):
        crop, flip = jax.random.split(jax.random.fold_in(KEY, row))
        top, left = (int(v) for v in jax.random.randint(crop, (2,), 0, 2 * pad + 1))
        image = np.asarray(x[int(order[2 * B + row])])
        image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=how.pad)
        image = image[top : top + 16, left : left + 16]
        if how.flip and jax.random.bernoulli(flip):
            image, flips = image[:, ::-1], flips + 1
        assert (np.round(np.asarray(out[row]) * 255) == image).all()
    assert 0 < flips < B if how.flip else flips == 0


def test_all_shifts_and_both_directions_are_drawn():
    n = 1500
    x = jnp.zeros((n, 8, 8, 1), jnp.uint8).at[:, 3, 4].set(255)
    out, _ = take_batch(
        KEY, x, jnp.zeros(n, jnp.int32), jnp.arange(n), 0, batch_size=n, augment="crop_flip"
    )
    _, rows, columns, _ = np.nonzero(np.asarray(out))
    assert np.bincount(rows).tolist() == pytest.approx([0, 0, 500, 500, 500], abs=90)
    assert np.bincount(columns).tolist() == pytest.approx([0, 0, 250, 500, 500, 250], abs=90)


def test_same_key_same_batch_and_another_key_another(batch):
    args = images(), jnp.zeros(N, jnp.int32), jnp.arange(N), 0
    first, again, other = (
        batch(jax.random.key(k), *args, batch_size=B, augment="crop_flip")[0] for k in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()


def test_an_images_draw_depends_on_its_global_row_not_on_the_cut(batch):
    args = images(), jnp.zeros(N, jnp.int32), jnp.arange(N)
    whole, _ = batch(KEY, *args, 0, batch_size=B, augment="crop_flip")
    keys = per_image(KEY, B)
    for half in (0, 1):
        mine = keys[half * 4 : half * 4 + 4]
        part, _ = batch(mine, *args, half, batch_size=4, augment="crop_flip")
        assert (part == whole[half * 4 : half * 4 + 4]).all()


def test_an_epoch_compiles_once():
    count = 0

    def counted(*args, **options):
        nonlocal count
        count += 1
        return take_batch(*args, **options)

    step = jax.jit(counted, static_argnames=("batch_size", "augment"))
    for i in range(3):
        order = epoch_order(0, i, 0, N)
        step(KEY, images(), jnp.zeros(N, jnp.int32), order, i, batch_size=B, augment="crop_flip")
    assert count == 1


def test_padding_is_four_for_cifar_and_an_eighth_below():
    widths = [pad_width((1, size, size, 1)) for size in (64, 32, 28, 8)]
    assert widths == [4, 4, 3, 1]


def test_unknown_augmentation_gets_the_nearest_name():
    with pytest.raises(ValueError, match="unknown augmentation 'flip': did you mean"):
        take_batch(KEY, images(), jnp.arange(N), jnp.arange(N), 0, batch_size=B, augment="flip")
