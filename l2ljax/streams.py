"""Random streams by purpose, so that no two uses of one key can meet.

`jax.random.split(key)[i]` is `fold_in(key, i)`: two uses that number their draws, each from 0, get
the same keys. A purpose is a word, and its checksum is the number that is folded in.
"""

import zlib

import jax

from l2ljax.types import Array


def stream(rng: Array, purpose: str) -> Array:
    """The key that a key, or each of an array of keys, has for that purpose."""
    number = zlib.crc32(purpose.encode())
    if rng.ndim == 0:
        return jax.random.fold_in(rng, number)
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(rng)
