"""A trained attacker phi as an attack on any classifier, not only on the one it grew up with.

    solver = l2l(attacker, image_and_gradient("per_example_max"), steps=1, start="zero")
    x_adv = learned_attack(rng, f, x, y, eps=8/255, solver=solver, phi=phi, phi_stats=phi_stats)

or, with the gradient over one fixed number, as it was over the training batch's maximum:

    solver = l2l(attacker, image_and_gradient("none"), steps=1, start="zero")
    scale = gradient_scale(f_trained, x_train_batch, y_train_batch)
    x_adv = learned_attack(rng, f, x, y, eps=8/255, solver=solver, phi=phi, ..., scale=scale)

The solver says what phi is and how many steps it takes (`methods.make_method(...).solver`); one
that plays longer than it was trained is another solver with the same phi. Build it once: a jit
knows a solver by its identity, while f, phi and the scale are arguments of one program.

Every image is a batch of its own here, also for the solver, so nothing can depend on the images
beside it: "batch_max", with which the authors train, is then "per_example_max".
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax import gate
from l2ljax.attacker_input import input_gradient
from l2ljax.attacks.entrance import check_inputs, classes_of, classifier
from l2ljax.ball import box, per_image, project
from l2ljax.losses import ATTACK_LOSSES, plain_ell
from l2ljax.types import Array, Ell, Problem, Solver, Tree, without_statistics


def learned_attack(
    rng: Array,
    f: Callable[[Array], Array],
    x: Array,
    y: Array,
    *,
    eps: float,
    solver: Solver,
    phi: Tree,
    phi_stats: Tree,
    loss: str = "ce",
    scale: Array | float | None = None,
) -> Array:
    """x + delta, delta what the solver makes of phi and of u = grad_x ell(f(x), y), or u / scale.

    `scale` is for a solver that does not divide the gradient itself (`grad_norm="none"`).
    """
    gate.word("loss", loss, ATTACK_LOSSES)
    if scale is not None:
        gate.check_positive("scale", scale)
    f, x, y = check_inputs(f, x, y, eps=eps)
    scale = jnp.asarray(1.0 if scale is None else scale, x.dtype)
    keys = per_image(rng, len(x))
    return _solve(keys, f, x, y, eps, phi, phi_stats, scale, solver, loss)


@partial(jax.jit, static_argnames=("solver", "loss"))
def _solve(keys, f, x, y, eps, phi, phi_stats, scale, solver, loss):
    def alone(key, x, y):
        key, x, y = key[None], x[None], y[None]
        ell = _scaled(plain_ell(loss, f, x, y), scale)
        # theta is all inside f: a solver asks for it only to hand it to ell.
        inner = solver.solve(Problem(ell, x, y, eps, key, train=False), None, phi, phi_stats)
        return inner.delta[0]

    delta = jax.vmap(alone)(keys, x, y)
    # A solver may play in a larger ball (`radius`), and NaN in, NaN out.
    return x + box(x, project(jnp.where(jnp.isnan(delta), 0.0, delta), eps))


def _scaled(ell: Ell, scale: Array | float) -> Ell:
    return without_statistics(lambda theta, x: ell(theta, x) / scale)


def gradient_scale(
    f: Callable[[Array], Array], x: Array | np.ndarray, y: Array | np.ndarray, *, loss: str = "ce"
) -> Array:
    """max |grad_x ell| over one batch, by which "batch_max" divides there; 1 if there is none."""
    gate.word("loss", loss, ATTACK_LOSSES)
    x = gate.images(x)
    y = gate.labels(y, len(x), classes_of(f, x))
    return _largest(classifier(f), x, y, loss)


@partial(jax.jit, static_argnames="loss")
def _largest(f, x, y, loss):
    u, _ = input_gradient(plain_ell(loss, f, x, y), None, x)
    top = jnp.abs(u).max()
    return jnp.where(top == 0, 1.0, top)
