"""The l_inf and l2 balls and the pixel box: the only clips in the package, and the random starts.

`lax.clamp`, not `jnp.clip`: at a tie the first passes no gradient and the second half of it, and
a black pixel sits exactly on the box.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from l2ljax import devices
from l2ljax.errors import InputError, word
from l2ljax.types import Array, as_keys

NORMS = ("linf", "l2")
"""The balls an attack can be run in; training plays in the first."""


def scale(x: Array) -> Array:
    """Pixels as float32 in [0, 1]: uint8 times float32(1/255), floats as they are."""
    if x.dtype == jnp.uint8:
        return x.astype(jnp.float32) * jnp.float32(1 / 255)
    return x.astype(jnp.float32)


def project(delta: Array, eps: Array | float) -> Array:
    """Pi(delta) = sign(delta) min(|delta|, eps), the projection on B(eps) (section 2)."""
    eps = jnp.asarray(eps, delta.dtype)
    return lax.clamp(-eps, delta, eps)


def size(delta: Array, norm: str) -> Array:
    """The norm of every image's perturbation, [B, 1, 1, 1]."""
    axes = tuple(range(1, delta.ndim))
    if norm == "linf":
        return jnp.abs(delta).max(axes, keepdims=True)
    square = (delta * delta).sum(axes, keepdims=True)
    # The root of 0 is never taken: its slope is infinite, and a learned attacker's gradient NaN.
    return jnp.where(square == 0, 0.0, jnp.sqrt(jnp.where(square == 0, 1.0, square)))


def project_l2(delta: Array, eps: Array | float) -> Array:
    """delta min(1, eps / |delta|_2), the projection of every image's delta on its l2 ball."""
    return delta * jnp.minimum(1.0, eps / jnp.maximum(size(delta, "l2"), TINY))


TINY = 1e-12
"""Added to or kept below a norm that may be 0 (the official AutoAttack's constant)."""

PROJECT = {"linf": project, "l2": project_l2}
"""The projection on the ball of each norm: (delta, eps) -> delta."""


def steepest(u: Array, norm: str) -> Array:
    """The direction of unit norm along which <u, d> is largest: sign(u), or u / |u|_2.

    Of full length however small u is (its squares would vanish in float32), and 0 where u is NaN.
    """
    if norm == "linf":
        d = jnp.sign(u)
    else:
        for norm in ("linf", "l2"):
            length = size(u, norm)
            u = u / jnp.where(length == 0, 1.0, length)
        d = u
    return jnp.where(jnp.isnan(d), 0.0, d)


def check_perturbation(x: Array, delta: Array) -> None:
    """An InputError unless delta has the shape of the images x."""
    if delta.shape != x.shape:
        raise InputError(
            f"the perturbation is of the shape {list(delta.shape)}, the images of {list(x.shape)}: "
            "an attacker must return one number for every pixel and channel"
        )


def box(x: Array, delta: Array) -> Array:
    """The part of delta that keeps x + delta in [0, 1]; never larger than delta.

    Where a pixel of x itself lies outside, delta may not lead further out.
    """
    check_perturbation(x, delta)
    return lax.clamp(jnp.minimum(-x, 0), delta, jnp.maximum(1 - x, 0))


def per_image(rng: Array, rows: Array | int) -> Array:
    """One key per image, fold_in(rng, row); `rows` are the rows, or how many of them there are.

    If rng is already an array with one key an image, it comes back as it is.
    """
    rng = as_keys(rng)
    if rng.ndim > 1 or (rng.ndim == 1 and isinstance(rows, int) and len(rng) != rows):
        raise InputError(f"rng holds keys {list(rng.shape)}: pass one key, or one for each image")
    if rng.ndim == 1:
        return rng
    rows = jnp.arange(rows) if isinstance(rows, int) else rows
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, rows)


def batch_rows(n: int, parts: int = 1) -> Array:
    """Which rows of the whole batch our n images are: this device's share of each of its parts."""
    part, row = jnp.divmod(jnp.arange(n), n // parts)
    return (part * devices.count() + devices.index()) * (n // parts) + row


def noise(rng: Array, x: Array, eps: Array | float) -> Array:
    """U(-eps, eps) for every pixel, also where that leaves the box."""
    draw = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -1.0, 1.0))
    return draw(per_image(rng, len(x))) * jnp.asarray(eps, x.dtype)


def uniform(rng: Array, x: Array, eps: Array | float) -> Array:
    """U(-eps, eps) for every pixel, cut to the box."""
    return box(x, noise(rng, x, eps))


def uniform_l2(rng: Array, x: Array, eps: Array | float) -> Array:
    """Uniform in every l2 ball: a Gaussian direction, a radius eps U^(1/d); cut to the box."""
    d = x[0].size

    def draw(key: Array) -> Array:
        direction, radius = jax.random.split(key)
        n = jax.random.normal(direction, (1, *x.shape[1:]), x.dtype)
        return (steepest(n, "l2") * jax.random.uniform(radius, (), x.dtype) ** (1 / d))[0]

    return box(x, jax.vmap(draw)(per_image(rng, len(x))) * jnp.asarray(eps, x.dtype))


class Radii(NamedTuple):
    """A length as a multiple of the radius: it follows eps where eps is warmed up."""

    number: float


def length(step_size: float | Radii, eps: Array | float) -> Array | float:
    """A step size on the [0, 1] scale: a number as it is, `Radii` times eps."""
    return step_size.number * eps if isinstance(step_size, Radii) else step_size


def gaussian(rng: Array, x: Array, scale: float) -> Array:
    """scale * N(0, 1) for every pixel, cut to the box."""
    draw = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))
    return box(x, scale * draw(per_image(rng, len(x))))


START_SCALE = 0.001
"""Standard deviation of the Gaussian start in the L2L and TRADES code."""


def zero(rng: Array, x: Array, eps: Array | float) -> Array:
    """delta = 0."""
    return jnp.zeros_like(x)


STARTS = {
    "zero": zero,
    "uniform": uniform,
    "gaussian": lambda rng, x, eps: gaussian(rng, x, START_SCALE),
}
"""Where an inner problem begins: (rng, x, eps) -> delta."""


def start_of(name: str) -> Callable[[Array, Array, Array | float], Array]:
    """The start of that name; an InputError names the nearest one where there is none."""
    word("start", name, STARTS)
    return STARTS[name]


STARTS_L2 = STARTS | {"uniform": uniform_l2}
"""The same for the l2 ball."""
