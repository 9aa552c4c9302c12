"""A(x, y, theta): what the attacker sees of the classifier (section 2.2, equation 3).

The input gradient is a constant to both players: its *inputs* are stopped, because `pmax` has no
derivative. The authors' code divides it by its largest entry over the whole batch, which the
paper does not mention; across devices that maximum is global.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.lax import pmax, stop_gradient

from l2ljax.devices import over_devices
from l2ljax.errors import word
from l2ljax.types import Array, Ell, Tree, without_statistics

GradNorm = Literal["batch_max", "per_example_max", "sign", "none"]
GRAD_NORMS: tuple[GradNorm, ...] = get_args(GradNorm)
"""How the gradient that an attacker sees is scaled."""

AttackerInput = Callable[[Array, Array, Tree, Ell], tuple[Array, Ell]]
"""A : (x, y, theta, ell) -> the attacker's input [B, H, W, C'], and the ell that has looked."""


def slope(ell: Ell, theta: Tree, x: Array) -> tuple[Array, Ell]:
    """grad_x ell(f(x_i), y_i) per example, a function of theta that may be differentiated.

    And the ell that has seen x: its statistics come with the gradient and cost no further pass.
    """

    def total(x: Array) -> tuple[Array, Ell]:
        loss, seen = ell.look(theta, x)
        return loss.sum(), seen

    return jax.grad(total, has_aux=True)(x)


def input_gradient(ell: Ell, theta: Tree, x: Array) -> tuple[Array, Ell]:
    """u_i = grad_x ell(f(x_i), y_i) per example, constant for autodiff, and the ell after it."""
    return slope(ell, stop_gradient(theta), stop_gradient(x))


def normalise(u: Array, grad_norm: GradNorm) -> Array:
    """u-hat: u over its max-abs (of the batch, of the example), its sign, or u itself.

    A gradient that is zero everywhere stays zero.
    """
    word("grad_norm", grad_norm, GRAD_NORMS)
    if grad_norm == "sign":
        return jnp.sign(u)
    if grad_norm == "none":
        return u
    axes = None if grad_norm == "batch_max" else tuple(range(1, u.ndim))
    top = jnp.abs(u).max(axes, keepdims=True)
    if grad_norm == "batch_max":
        top = over_devices(top, pmax)
    return u / jnp.where(top == 0, 1.0, top)


def image_alone(x: Array, y: Array, theta: Tree, ell: Ell) -> tuple[Array, Ell]:
    """A = x: the attacker sees nothing of the classifier (Naive L2L)."""
    return x, ell


def image_and_gradient(grad_norm: GradNorm) -> AttackerInput:
    """A = [x, u-hat(x)], channel by channel: the image and the loss gradient (Grad L2L)."""
    word("grad_norm", grad_norm, GRAD_NORMS)

    def A(x: Array, y: Array, theta: Tree, ell: Ell) -> tuple[Array, Ell]:
        u, ell = input_gradient(ell, theta, x)
        return jnp.concatenate([x, normalise(u, grad_norm)], axis=-1), ell

    return A


def example_input(A: AttackerInput, x: Array) -> Array:
    """Zeros of the shape that A gives for images like x: what an attacker is initialised on."""

    ell = without_statistics(lambda theta, x: x.sum(axis=tuple(range(1, x.ndim))))
    y = jnp.zeros(len(x), jnp.int32)
    a = jax.eval_shape(lambda x, y: A(x, y, None, ell)[0], x, y)
    return jnp.zeros(a.shape, a.dtype)
