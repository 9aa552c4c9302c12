"""Random streams by purpose, so that no two uses of one key can meet.

`jax.random.split(key)[i]` is `fold_in(key, i)`: two uses that number their draws, each from 0, get
the same keys. A purpose is a word, and its checksum is the number that is folded in.
"""

import zlib
from typing import Any

import jax
import numpy as np

from l2ljax.errors import InputError
from l2ljax.types import Array


def as_keys(rng: Any) -> Array:
    """rng as typed keys; the raw numbers of `jax.random.PRNGKey` become the key they are."""
    if isinstance(rng, (jax.Array, np.ndarray)):
        keys = rng if isinstance(rng, jax.Array) else jax.numpy.asarray(rng)
        if jax.numpy.issubdtype(keys.dtype, jax.dtypes.prng_key):
            return keys
        width = jax.random.key_data(jax.random.key(0)).shape
        if keys.dtype == np.uint32 and keys.shape[-1:] == width:
            return jax.random.wrap_key_data(keys)
    raise InputError(f"rng is a {type(rng).__name__} and no key: pass jax.random.key(0)")


def one_key(rng: Any) -> Array:
    """rng as one typed key."""
    keys = as_keys(rng)
    if keys.ndim:
        raise InputError(f"rng holds keys {list(keys.shape)}: pass one key, jax.random.key(0)")
    return keys


def stream(rng: Array, purpose: str) -> Array:
    """The key that a key, or each of an array of keys, has for that purpose."""
    number = zlib.crc32(purpose.encode())
    if rng.ndim == 0:
        return jax.random.fold_in(rng, number)
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(rng)
