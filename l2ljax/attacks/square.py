"""Square Attack (Andriushchenko et al. 2020) as AutoAttack runs it: random search on the margin.

    x_adv = square(rng, f, x, y, eps=8/255, queries=5000)

f maps images [B, H, W, C] in [0, 1] to logits and is only asked for them, never for a gradient:
one query for the start, then one per step. A step changes one square window and is kept if the
lead of the label shrinks. The official code draws one window for a whole batch; here every image
draws from its own key, and `start` and `draws` replay another program's chance. As in the official
code the side depends on the step's number and not on `queries`, so that a short run is the
beginning of a long one, and a window smaller than the image never reaches its last row or column.

In l2 (section 4.2) a pattern has two halves of opposite sign, each falling off from its middle: the
norm is put where a convolution sees most of it. The norm that one window gives up is spent in
another, and every step uses the whole ball. The official start fails where five tiles and the image
do not fit together (12 pixels, or fewer than 5); here a tile is cut at the border and is one pixel
at least.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax import gate
from l2ljax.attacks.entrance import check_inputs, iterate
from l2ljax.ball import PROJECT, TINY, box, per_image, project, size, steepest
from l2ljax.errors import InputError
from l2ljax.losses import margin
from l2ljax.types import Array

P_INIT = 0.8
"""The share of the image that the first windows cover (AutoAttack's setting)."""

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The last step before each halving of that share (their code, `resc_schedule=False`)."""

SMALLEST = {"linf": 1, "l2": 3}
"""The smallest side of a window; in l2 it is odd, unless the image itself is smaller."""

TILES = 5
"""Tiles of the start along the height in l2 (their code)."""


class Draws(NamedTuple):
    """What the steps draw: [queries, B], sign [queries, B, C]; B may be 1 for all images alike.

    (row, col) is the window's upper left corner; in l2 (row2, col2) is that of the window which
    is emptied, and `turned` says whether the pattern is transposed.
    """

    row: Array
    col: Array
    sign: Array
    row2: Array | None = None
    col2: Array | None = None
    turned: Array | None = None


def sides(shape: tuple[int, ...], norm: str) -> tuple[int, ...]:
    """round(sqrt(p H W)) for p = P_INIT / 2^k, k = 0 .. 9: the window after k halvings."""
    h, w, c = shape
    # In this order: it decides where the root ends on a half.
    shares = (P_INIT / 2**k * (c * h * w) / c for k in range(len(HALVINGS) + 1))
    raw = (max(round(math.sqrt(share)), SMALLEST[norm]) for share in shares)
    return tuple(min(side + (norm == "l2" and side % 2 == 0), h, w) for side in raw)


def halvings(i: Array | int) -> Array:
    """How often p has been halved before step i."""
    return (i > jnp.array(HALVINGS)).sum()


def _sign(u: Array) -> Array:
    return jnp.where(u < 0.5, -1.0, 1.0)


def _uniform(keys: Array, i: Array | int, shape: tuple[int, ...]) -> Array:
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, i), shape))(keys)


def draw(keys: Array, i: Array | int, side: Array | int, shape: tuple[int, ...]) -> Draws:
    """Step i: corners uniform below (H - side, W - side), one sign per channel, a coin."""
    h, w, c = shape
    u = _uniform(keys, i + 1, (5 + c,))
    corners = (u[:, :4] * (jnp.array([h, w, h, w]) - side)).astype(jnp.int32)
    row, col, row2, col2 = corners.T
    return Draws(row, col, _sign(u[:, 5:]), row2, col2, u[:, 4] > 0.5)


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


def _stripes(keys: Array, x: Array, eps: Array) -> Array:
    _, h, w, c = x.shape
    return jnp.broadcast_to(eps * _sign(_uniform(keys, 0, (1, w, c))), x.shape)


def _tiles(keys: Array, x: Array, eps: Array) -> Array:
    rows, cols, build = tiles(x.shape[1:])
    u = _uniform(keys, 0, (rows, cols, 1 + x.shape[-1]))
    return eps * build(u[..., :1] > 0.5, _sign(u[..., 1:]))


START = {"linf": _stripes, "l2": _tiles}
"""Vertical stripes of +-eps; a 5 x 5 grid of two-sided patterns of norm eps."""


def _inside(row: Array, col: Array, side: Array, x: Array) -> Array:
    """Which pixels a window covers, [B, H, W, 1]."""

    def between(first, n):
        return (jnp.arange(n) >= first[:, None]) & (jnp.arange(n) < first[:, None] + side)

    rows, cols = between(row, x.shape[1]), between(col, x.shape[2])
    return (rows[:, :, None] & cols[:, None, :])[..., None]


def _linf(x: Array, delta: Array, d: Draws, k: Array, eps: Array) -> Array:
    """delta + 2 eps sign inside the window, projected: there it becomes +-eps."""
    side = jnp.array(sides(x.shape[1:], "linf"))[k]
    window = _inside(d.row, d.col, side, x)
    return project(delta + 2 * eps * d.sign[:, None, None, :] * window, eps)


def _l2(x: Array, delta: Array, d: Draws, k: Array, eps: Array) -> Array:
    """The mass of both windows and what the ball still allows go into the first."""
    if d.row2 is None or d.col2 is None or d.turned is None:
        raise InputError("draws for l2 need row2, col2 and turned")
    lengths = sides(x.shape[1:], "l2")
    side = jnp.array(lengths)[k]
    window = _inside(d.row, d.col, side, x)
    emptied = _inside(d.row2, d.col2, side, x)
    pattern = place(lengths, k, d.row, d.col, d.turned, x.shape[1:3])
    pattern = jnp.where(window, pattern * d.sign[:, None, None, :], 0.0)
    return move_mass(delta, window, emptied, pattern, eps)


PROPOSE = {"linf": _linf, "l2": _l2}
"""The perturbation a step tries, before it is cut to the box."""


class Best(NamedTuple):
    """The best perturbation so far, and max_{t != y} f_t - f_y there: it has fallen from 0 on."""

    delta: Array
    margin: Array


def _margin(f, x, y):
    """Where the logits are not a number the margin is -inf: any other query is better."""
    value = margin(f(x), y)
    return jnp.where(jnp.isnan(value), -jnp.inf, value)


@partial(jax.jit, static_argnames="norm")
def _first(f, x, y, eps, keys, start, *, norm):
    start = START[norm](keys, x, eps) if start is None else start
    delta = box(x, PROJECT[norm](start, eps))
    right = f(x).argmax(-1) == y
    delta = jnp.where(right[:, None, None, None], delta, 0.0)
    return Best(delta, jnp.where(right, _margin(f, x + delta, y), jnp.inf))


@partial(jax.jit, static_argnames="norm")
def _step(i, best, f, x, y, eps, keys, draws, *, norm):
    k = halvings(i)
    if draws is None:
        d = draw(keys, i, jnp.array(sides(x.shape[1:], norm))[k], x.shape[1:])
    else:
        d = jax.tree.map(lambda a: a[i], draws)
    delta = box(x, PROPOSE[norm](x, best.delta, d, k, eps))
    value = _margin(f, x + delta, y)
    better = (best.margin < 0) & (value > best.margin)
    delta = jnp.where(better[:, None, None, None], delta, best.delta)
    return Best(delta, jnp.where(better, value, best.margin))


def _all_fallen(best):
    return (best.margin >= 0).all()


def square(
    rng: Array,
    f: Callable[[Array], Array],
    x: Array,
    y: Array,
    *,
    eps: float,
    queries: int,
    norm: str = "linf",
    start: Array | None = None,
    draws: Draws | None = None,
) -> Array:
    """x + delta with the largest margin of `queries` windows tried; a fallen image stands still.

    An image that is misclassified as it is comes back as it is. `start` is a perturbation.
    """
    gate.check_count("queries", queries)
    f, x, y = check_inputs(f, x, y, eps=eps, norm=norm)
    if draws is not None:
        draws = jax.tree.map(jnp.asarray, draws)
        short = min(len(a) for a in jax.tree.leaves(draws))
        if short < queries:
            raise InputError(f"draws are of {short} steps, and queries={queries}")
    start = None if start is None else gate.perturbation(start, x)
    keys = per_image(rng, len(x))
    best = _first(f, x, y, eps, keys, start, norm=norm)
    args = (f, x, y, eps, keys, draws)
    best = iterate(_step, best, *args, steps=queries, done=_all_fallen, norm=norm)
    return x + best.delta
