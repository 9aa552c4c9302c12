"""Keys by purpose: no two uses of one key can meet."""

import zlib

import jax
import numpy as np

from l2ljax.types import stream

KEY = jax.random.key(7)


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_a_purpose_has_a_key_that_no_numbered_draw_has():
    numbered = {data(jax.random.fold_in(KEY, i)) for i in range(1000)}
    numbered |= {data(key) for key in jax.random.split(KEY, 100)}
    words = ("images", "crafting", "training", "turn", "augmentation", "theta", "phi")
    words += ("validation", "diagnostics")
    found = [data(stream(KEY, word)) for word in words]
    assert len(set(found)) == len(words) and not numbered & set(found)


def test_a_purpose_is_the_same_in_every_process():
    """Python's own hash of a word is another one in every process."""
    assert data(stream(KEY, "images")) == data(jax.random.fold_in(KEY, zlib.crc32(b"images")))


def test_an_array_of_keys_has_the_streams_of_its_keys():
    keys = jax.random.split(KEY, 3)
    assert data(stream(keys, "training")) == sum((data(stream(k, "training")) for k in keys), ())
