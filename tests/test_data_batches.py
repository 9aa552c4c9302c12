import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2ljax.ball import per_image, scale
from l2ljax.data import epoch_order, take_batch
from l2ljax.data.batches import AUGMENTS, Augment, pad_width
from l2ljax.errors import InputError

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


def crops(batch, n, height, width):
    """What random_resized_crop did to n images whose pixels are their places: [n, H, W, 2]."""
    rows, columns = np.meshgrid(np.arange(height) / 256, np.arange(width) / 256, indexing="ij")
    x = np.broadcast_to(np.stack([rows, columns], -1), (n, height, width, 2)).astype(np.float32)
    args = jnp.asarray(x), jnp.zeros(n, jnp.int32), jnp.arange(n), 0
    out, _ = batch(KEY, *args, batch_size=n, augment="random_resized_crop")
    assert out.dtype == jnp.float32 and out.shape == x.shape
    return np.asarray(out) * 256


def test_a_random_part_is_resized_bilinearly_to_the_whole(batch):
    """In a picture of its own places an enlarged part is a ramp, from whose slope it is read."""
    n, height, width = 400, 24, 32
    out = crops(batch, n, height, width)
    ramps = out[:, :, width // 2, 0], out[:, height // 2, :, 1]
    sizes, corners = [], []
    for ramp, side in zip(ramps, (height, width), strict=True):
        middle = slice(side // 4, -(side // 4))  # the border of the picture is no ramp
        slope = np.diff(ramp[:, middle]).mean(1)
        assert np.abs(np.diff(ramp[:, middle]) - slope[:, None]).max() < 1e-3, "bilinear"
        size = np.abs(slope) * side
        centre = ramp[:, middle].mean(1) + 0.5
        sizes.append(size)
        corners.append(centre - size / 2)
    for number in (*sizes, *corners):
        assert np.abs(number - np.round(number)).max() < 0.05, "whole pixels"
    (h, w), (top, left) = np.round(sizes), np.round(corners)
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    share, ratio = h * w / (height * width), w / h
    assert 0.05 < share.min() < 0.15 and share.max() > 0.9 and 0.4 < share.mean() < 0.6
    assert 0.65 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.5 and 0.9 < np.median(ratio) < 1.1
    flipped = np.diff(ramps[1]).mean(1) < 0
    assert 0.4 < flipped.mean() < 0.6 and (np.diff(ramps[0]).mean(1) > 0).all()


def test_where_no_part_fits_the_largest_centre_crop_is_taken(batch):
    out = crops(batch, 3, 4, 64)[:, 2, :, 1]  # the area of any part needs more than four rows
    ramp = (64 - 5) // 2 + (np.arange(64) + 0.5) * 5 / 64 - 0.5  # round(4 * 4 / 3) columns
    assert np.allclose(np.sort(out), ramp, atol=1e-3)


def test_ones_own_augmentation_gets_a_key_and_a_float_image_and_stays_in_the_box(batch):
    def brighter(key, image):
        assert image.shape == (16, 16, 3) and image.dtype == jnp.float32
        return image + jax.random.uniform(key, (3,))

    args = images(), jnp.zeros(N, jnp.int32), jnp.arange(N), 1
    out, _ = batch(KEY, *args, batch_size=B, augment=brighter)
    for row, key in enumerate(per_image(KEY, B)):
        expected = scale(images()[B + row]) + jax.random.uniform(key, (3,))
        assert np.allclose(out[row], np.clip(expected, 0, 1))


def test_an_augmentation_that_is_no_such_function_gets_one_line():
    def broken(key, image):
        return image if image.sum() > 0 else -image

    wrong = [
        (lambda key, image: image[1:], "must return an image float32 .16, 16, 3. as it is given"),
        (lambda key, image: (image, key), "must return an image float32 .16, 16, 3. as it is"),
        (lambda key, image: image > 0.5, "must return an image float32 .16, 16, 3. as it is given"),
        (lambda image: image, "the augmentation <lambda> cannot be traced: "),
        (broken, "the augmentation broken cannot be traced: "),
        (7, "augment is a int: give a name or a function"),
    ]
    for augment, line in wrong:
        with pytest.raises(InputError, match=line) as info:
            take_batch(
                KEY, images(), jnp.arange(N), jnp.arange(N), 0, batch_size=B, augment=augment
            )
        assert "\n" not in str(info.value)
