"""The l2 half of Square (Andriushchenko et al. 2020, section 4.2): its patterns and its step.

    pattern = place(sides, k, row, col, turned, (H, W))
    delta = move_mass(delta, window, emptied, pattern, eps)

A pattern has two halves of opposite sign, each falling off from its middle: the norm is put where
a convolution sees most of it. The norm that one window gives up is spent in another, and every
step uses the whole ball. The official start fails where five tiles and the image do not fit
together (12 pixels, or fewer than 5); here a tile is cut at the border and is one pixel at least.
"""

from collections.abc import Callable
from functools import lru_cache

import jax.numpy as jnp
import numpy as np

from l2ljax.ball import TINY, size, steepest
from l2ljax.types import Array

TILES = 5
"""Tiles of the start along the height (their code)."""


def _half(rows: int, cols: int) -> np.ndarray:
    """sum_{k >= d} 1 / (k + 1)^2 at the Chebyshev distance d from the middle, of norm 1."""
    r, c = np.abs(np.arange(rows) - rows // 2), np.abs(np.arange(cols) - cols // 2)
    terms = 1.0 / np.arange(1, max(rows // 2, cols // 2) + 2) ** 2
    tail = terms[::-1].cumsum()[::-1]
    half = tail[np.maximum(r[:, None], c[None, :])]
    return half / np.sqrt((half**2).sum()) if half.size else half


@lru_cache
def eta(side: int) -> np.ndarray:
    """The pattern of a window: a positive upper and a negative lower half, of norm 1."""
    halves = _half(side // 2, side), -_half(side - side // 2, side)
    both = np.concatenate(halves)
    return (both / np.sqrt((both**2).sum())).astype(np.float32)


def place(
    sides: tuple[int, ...],
    k: Array | int,
    row: Array,
    col: Array,
    turned: Array,
    shape: tuple[int, ...],
) -> Array:
    """eta(sides[k]), turned or not, with its corner at (row, col) of every image: [B, H, W, 1].

    What lies outside the window is of no meaning.
    """
    table = np.zeros((len(sides), max(sides), max(sides)), np.float32)
    for i, side in enumerate(sides):
        table[i, :side, :side] = eta(side)
    a = jnp.arange(shape[0])[None, :, None] - row[:, None, None]
    b = jnp.arange(shape[1])[None, None, :] - col[:, None, None]
    turned = turned[:, None, None]
    return jnp.array(table)[k, jnp.where(turned, b, a), jnp.where(turned, a, b)][..., None]


def tiles(shape: tuple[int, ...]) -> tuple[int, int, Callable[[Array, Array], Array]]:
    """How many rows and columns of tiles start an image, and what makes them one of norm 1.

    The last is (turned [B, rows, cols, 1], sign [B, rows, cols, C]) -> [B, H, W, C].
    """
    h, w, _ = shape
    side = max(h // TILES, 1)
    border = max((h - side * TILES) // 2, 0)

    def along(n):
        tile, within = np.divmod(np.arange(n) - border, side)
        return tile % (n // side), within, (tile >= 0) & (tile < n // side)

    (r, a, in_r), (c, b, in_c) = along(h), along(w)
    covered = in_r[:, None] & in_c[None, :]
    upright = jnp.array(eta(side)[a[:, None], b[None, :]] * covered)[..., None]
    lying = jnp.array(eta(side).T[a[:, None], b[None, :]] * covered)[..., None]

    def build(turned, sign):
        at = (slice(None), r[:, None], c[None, :])
        return steepest(jnp.where(turned[at], lying, upright) * sign[at], "l2")

    return h // side, w // side, build


def _channel_size(v: Array) -> Array:
    return jnp.sqrt((v * v).sum((1, 2), keepdims=True))


def move_mass(delta: Array, window: Array, emptied: Array, pattern: Array, eps: Array) -> Array:
    """Pattern plus old direction in `window`, nothing in the rest of `emptied`, of norm eps.

    Every channel of the window gets the norm it had in both windows and 1/C of what was free.
    """
    old = jnp.where(window, delta, 0.0)
    new = pattern + old / (TINY + _channel_size(old))
    free = jnp.maximum(eps**2 - size(delta, "l2") ** 2, 0.0) / delta.shape[-1]
    had = _channel_size(jnp.where(window | emptied, delta, 0.0))
    new = new / (TINY + _channel_size(new)) * jnp.sqrt(free + had**2)
    return eps * steepest(jnp.where(window, new, jnp.where(emptied, 0.0, delta)), "l2")
