"""Batches cut, cropped, flipped and scaled inside jit, from arrays that are on the device once.

The order of an epoch is a function of (seed, epoch, rollbacks) and an image's crop of its row in
the global batch, so that a run resumes bit for bit. The one surprising thing: pixels are
multiplied by float32(1/255), because XLA compiles a division by 255 to that, NumPy does not, and
training and evaluation must see the same numbers.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from l2ljax.ball import per_image, scale
from l2ljax.errors import nearest
from l2ljax.types import Array

ORDER = 0x6F726465
"""Keeps the keys of epochs apart from the keys of steps: no run rolls back so often."""


class Augment(NamedTuple):
    """How an image is padded before a random crop, and whether half of them are flipped."""

    pad: Literal["constant", "reflect"]
    flip: bool


AUGMENTS: dict[str, Augment | None] = {
    "none": None,
    "crop": Augment("constant", flip=False),
    "crop_flip": Augment("constant", flip=True),
    "reflect_crop_flip": Augment("reflect", flip=True),
}
"""Zero padding is that of the L2L and Fast-BAT codes, reflection Zagoruyko's."""


def epoch_order(seed: int, epoch: int, rollbacks: int, n: int) -> Array:
    """The permutation of n images for one epoch, int32 [n]; called once per epoch."""
    key = jax.random.key(seed)
    for part in (ORDER, rollbacks, epoch):
        key = jax.random.fold_in(key, part)
    return jax.random.permutation(key, n).astype(jnp.int32)


def take_batch(
    rng: Array,
    x: Array,
    y: Array,
    order: Array,
    i: Array | int,
    *,
    batch_size: int,
    augment: str,
) -> tuple[Array, Array]:
    """Batch i of `order`: float32 [B, H, W, C] in [0, 1] and int32 [B].

    An epoch has n // batch_size batches; the remainder of `order` is dropped. `rng` is one key,
    or one for each image of the batch.
    """
    rows = lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
    images, labels = x[rows], y[rows]
    return scale(augment_images(rng, images, augment)), labels.astype(jnp.int32)


def augment_images(rng: Array, x: Array, augment: str) -> Array:
    """Every image of the batch under its own draw: pad, crop to the old size, flip."""
    if augment not in AUGMENTS:
        raise ValueError(nearest("augmentation", augment, AUGMENTS))
    how = AUGMENTS[augment]
    if how is None:
        return x
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


def pad_width(shape: tuple[int, ...]) -> int:
    """4 for images of 32 pixels and more [papers' choice], an eighth of the side below."""
    return min(4, min(shape[1:3]) // 8)
