"""A(x, y, theta): what the attacker sees of the classifier (section 2.2, equation 3).

The input gradient is a constant to both players: its *inputs* are stopped, because `pmax` has no
derivative. The authors' code divides it by its largest entry over the whole batch, which the
paper does not mention; across devices that maximum is global.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.lax import pmax, stop_gradient

from l2ljax.types import Array, Ell, Tree

GradNorm = Literal["batch_max", "per_example_max", "sign", "none"]
GRAD_NORMS: tuple[GradNorm, ...] = ("batch_max", "per_example_max", "sign", "none")

AttackerInput = Callable[[Array, Array, Tree, Ell], Array]
"""A : (x, y, theta, ell) -> the attacker's input [B, H, W, C']."""


def slope(ell: Ell, theta: Tree, x: Array) -> Array:
    """grad_x ell(f(x_i), y_i) per example, a function of theta that may be differentiated."""
    return jax.grad(lambda x: ell(theta, x).sum())(x)


def input_gradient(ell: Ell, theta: Tree, x: Array) -> Array:
    """u_i = grad_x ell(f(x_i), y_i), per example and constant for autodiff."""
    return slope(ell, stop_gradient(theta), stop_gradient(x))


def normalise(u: Array, grad_norm: GradNorm, axis_name: str | None = None) -> Array:
    """u-hat: u over its max-abs (of the batch, of the example), its sign, or u itself.

    A gradient that is zero everywhere stays zero.
    """
    if grad_norm == "sign":
        return jnp.sign(u)
    if grad_norm == "none":
        return u
    axes = None if grad_norm == "batch_max" else tuple(range(1, u.ndim))
    top = jnp.abs(u).max(axes, keepdims=True)
    if grad_norm == "batch_max" and axis_name is not None:
        top = pmax(top, axis_name)
    return u / jnp.where(top == 0, 1.0, top)


def image_and_gradient(grad_norm: GradNorm, axis_name: str | None = None) -> AttackerInput:
    """A = [x, u-hat(x)], channel by channel, the Grad attacker's."""

    def A(x: Array, y: Array, theta: Tree, ell: Ell) -> Array:
        u = normalise(input_gradient(ell, theta, x), grad_norm, axis_name)
        return jnp.concatenate([x, u], axis=-1)

    return A


def example_input(A: AttackerInput, x: Array) -> Array:
    """Zeros of the shape that A gives for images like x: what an attacker is initialised on."""

    def shape_only(theta: Tree, x: Array) -> Array:
        return x.sum(axis=tuple(range(1, x.ndim)))

    y = jnp.zeros(len(x), jnp.int32)
    a = jax.eval_shape(lambda x, y: A(x, y, None, shape_only), x, y)
    return jnp.zeros(a.shape, a.dtype)
