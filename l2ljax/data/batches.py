"""Batches cut, cropped, flipped and scaled inside jit, from arrays that are on the device once.

The order of an epoch is a function of (seed, epoch, rollbacks) and an image's crop of its row in
the global batch, so that a run resumes bit for bit. Pixels are multiplied by float32(1/255),
because XLA compiles a division by 255 to that, NumPy does not, and training and evaluation must see
the same numbers.

An augmentation is a name in AUGMENTS or a function of one's own, (key, image) -> image, of float32
images [H, W, C] in [0, 1]. It must keep shape and dtype, and what it moves out of [0, 1] is cut.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from l2ljax.ball import per_image, scale
from l2ljax.errors import InputError, nearest
from l2ljax.types import Array

ORDER = 0x6F726465
"""Keeps the keys of epochs apart from the keys of steps: no run rolls back so often."""


class Augment(NamedTuple):
    """How an image is padded before a random crop, and whether half of them are flipped."""

    pad: Literal["constant", "reflect"]
    flip: bool


Augmentation = Callable[[Array, Array], Array]
"""(key, image) -> image, of one float32 image [H, W, C] in [0, 1]."""

AREA, RATIO, DRAWS = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""Of random_resized_crop: share of the area, width over height, and how often both are drawn anew
where the crop is larger than the image. All as in torchvision's RandomResizedCrop, after Szegedy et
al. 2015 (section 6)."""


def random_resized_crop(key: Array, image: Array) -> Array:
    """A random part of the image, resized bilinearly to the image's own size; half are flipped.

    The part has U(AREA) of the pixels, and the logarithm of its width over its height is uniform.
    Where none of DRAWS parts fits, the largest centre crop of an allowed ratio is taken. Unlike
    in torchvision, a pixel at the border of the part is mixed with its neighbours beyond it.
    """
    height, width, _ = image.shape
    key_area, key_ratio, key_place, key_flip = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(key_area, (DRAWS,), image.dtype, *AREA)
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = jnp.exp(jax.random.uniform(key_ratio, (DRAWS,), image.dtype, low, high))
    h, w = jnp.round(jnp.sqrt(area / ratio)), jnp.round(jnp.sqrt(area * ratio))
    fits = (h > 0) & (w > 0) & (h <= height) & (w <= width)
    centre_h = min(height, round(width / RATIO[0]))
    centre_w = min(width, round(height * RATIO[1]))
    drawn = jnp.stack([h, w])[:, jnp.argmax(fits)]
    size = jnp.where(fits.any(), drawn, jnp.array([centre_h, centre_w]))
    room = jnp.array([height, width]) - size
    place = jax.random.uniform(key_place, (2,), image.dtype)
    corner = jnp.where(fits.any(), jnp.floor(place * (room + 1)), room // 2)
    zoom = jnp.array([height, width]) / size
    image = jax.image.scale_and_translate(
        image, image.shape, (0, 1), zoom, -corner * zoom, "linear", antialias=True
    )
    return jnp.where(jax.random.bernoulli(key_flip), image[:, ::-1], image)


AUGMENTS: dict[str, Augment | Augmentation | None] = {
    "none": None,
    "crop": Augment("constant", flip=False),
    "crop_flip": Augment("constant", flip=True),
    "reflect_crop_flip": Augment("reflect", flip=True),
    "random_resized_crop": random_resized_crop,
}
"""Zero padding is that of the L2L and Fast-BAT codes, reflection Zagoruyko's."""


def epoch_order(seed: int, epoch: int, rollbacks: int, n: int) -> Array:
    """The permutation of n images for one epoch, int32 [n]; called once per epoch."""
    key = jax.random.key(seed)
    for part in (ORDER, rollbacks, epoch):
        key = jax.random.fold_in(key, part)
    return jax.random.permutation(key, n).astype(jnp.int32)


def flat(x: Any) -> Any:
    """Images [..., H, W, C] as rows of pixels, from which `take_batch` takes whole rows.

    A TPU lays images [N, H, W, C] out with N as the minor side. To take single images out of them
    it would first bring the whole set into another order, in every call, and fill it up to four
    times its size (results/plans.md).
    """
    return x.reshape(*x.shape[:-3], -1)


def take_batch(
    rng: Array,
    x: Array,
    y: Array,
    order: Array,
    i: Array | int,
    *,
    batch_size: int,
    augment: str | Augmentation,
    image_shape: tuple[int, ...] | None = None,
) -> tuple[Array, Array]:
    """Batch i of `order`: float32 [B, H, W, C] in [0, 1] and int32 [B].

    An epoch has n // batch_size batches; the remainder of `order` is dropped. `rng` is one key,
    or one for each image of the batch. With `image_shape`, x may be `flat`.
    """
    rows = lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
    images, labels = x[rows], y[rows]
    if image_shape is not None:
        images = images.reshape(batch_size, *image_shape)
    return augment_images(rng, images, augment), labels.astype(jnp.int32)


def augment_images(rng: Array, x: Array, augment: str | Augmentation) -> Array:
    """Every image of the batch under its own draw, as float32 in [0, 1]."""
    if isinstance(augment, str):
        if augment not in AUGMENTS:
            raise InputError(nearest("augmentation", augment, AUGMENTS))
        how = AUGMENTS[augment]
    else:
        how = augment
    if how is None:
        return scale(x)
    if isinstance(how, Augment):
        return scale(_crop(rng, x, how))
    x = scale(x)
    _check_augmentation(how, x)
    return jnp.minimum(jnp.maximum(jax.vmap(how)(per_image(rng, len(x)), x), 0.0), 1.0)


def _crop(rng: Array, x: Array, how: Augment) -> Array:
    """Pad, crop to the old size, flip; of pixels as they are stored."""
    pad = pad_width(x.shape)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=how.pad)

    def one(key: Array, image: Array) -> Array:
        key_crop, key_flip = jax.random.split(key)
        top, left = jax.random.randint(key_crop, (2,), 0, 2 * pad + 1)
        image = lax.dynamic_slice(image, (top, left, 0), x.shape[1:])
        if how.flip:
            image = jnp.where(jax.random.bernoulli(key_flip), image[:, ::-1], image)
        return image

    return jax.vmap(one)(per_image(rng, len(x)), padded)


def _check_augmentation(how: Augmentation, x: Array) -> None:
    """An InputError unless the function keeps an image's shape and dtype."""
    name = getattr(how, "__name__", type(how).__name__)
    if not callable(how):
        raise InputError(f"augment is a {name}: give a name or a function (key, image) -> image")
    image = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    try:
        out = jax.eval_shape(how, jax.random.key(0), image)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the augmentation {name} cannot be traced: {reason}") from error
    kept = getattr(out, "shape", None) == image.shape and out.dtype == image.dtype
    if not kept:
        raise InputError(
            f"the augmentation {name} must return an image {image.dtype} {list(image.shape)} as it "
            f"is given; it returns {out}"
        )


def pad_width(shape: tuple[int, ...]) -> int:
    """4 for images of 32 pixels and more [papers' choice], an eighth of the side below."""
    return min(4, min(shape[1:3]) // 8)
