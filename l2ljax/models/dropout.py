"""Dropout whose draws belong to an image's row in the batch, not to the device that holds it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from l2ljax.ball import batch_rows, per_image
from l2ljax.types import Array


class Dropout(nn.Module):
    """x with a share `rate` of its entries zero and the rest scaled up; x itself without a key."""

    rate: float
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """x [B, ...], one draw of shape x[0] for every image."""
        if not self.rate or not train or not self.has_rng("dropout"):
            return x
        keys = per_image(self.make_rng("dropout"), batch_rows(len(x), self.axis_name))
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)
