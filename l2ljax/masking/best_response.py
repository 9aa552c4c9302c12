"""An attacker trained against this very classifier, on top of AutoAttack: an adaptive attack.

    play = respond(rng, f, x, y, solver=solver, phi=phi, phi_stats=phi_stats, loss="ce",
                   tx=optax.adam(1e-3), eps=8/255, epochs=10, batch_size=64)
    check = best_response(subject, play)

theta is frozen in eval mode; phi alone goes on playing, up the loss of f(x + delta). It may train
on the images it then attacks: whoever attacks knows them, and their labels.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2ljax import gate
from l2ljax.attacks.entrance import dataset
from l2ljax.attacks.loop import classifier
from l2ljax.ball import per_image, scale
from l2ljax.losses import ATTACK_LOSSES, cross_entropy, plain_ell
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.own_attacker import as_attack
from l2ljax.masking.subject import Play, Subject
from l2ljax.masking.verdict import Check, judge
from l2ljax.types import Array, Problem, Solver, Tree

EVERYTHING = "autoattack"


@partial(jax.jit, static_argnames=("solver", "loss", "tx"))
def _ascend(phi, phi_stats, opt, keys, f, x, y, eps, *, solver, loss, tx):
    ell = plain_ell(loss, f, x, y)

    def J(phi):
        inner = solver.solve(Problem(ell, x, y, eps, keys, train=True), None, phi, phi_stats)
        return cross_entropy(f(x + inner.delta), y).mean() + inner.gain, inner.phi_stats

    d_phi, phi_stats = jax.grad(J, has_aux=True)(phi)
    # Negated before the chain, so that weight decay still decays.
    updates, opt = tx.update(jax.tree.map(jnp.negative, d_phi), opt, phi)
    return optax.apply_updates(phi, updates), phi_stats, opt


def respond(
    rng: Array,
    f: Callable[[Array], Array],
    x: np.ndarray,
    y: np.ndarray,
    *,
    solver: Solver,
    phi: Tree,
    phi_stats: Tree,
    loss: str,
    tx: optax.GradientTransformation,
    eps: float,
    epochs: int,
    batch_size: int,
) -> Play:
    """phi after so many passes over the images, as an attack; f stays as it is.

    The solver scales the gradient by the image ("per_example_max", "sign"), as the attack does.
    """
    gate.word("loss", loss, ATTACK_LOSSES)
    gate.check_eps(eps)
    gate.check_count("epochs", epochs)
    x, y, _ = dataset(f, x, y, batch_size=batch_size)
    f, opt, n = classifier(f), tx.init(phi), min(batch_size, len(x))
    for epoch in range(epochs):
        key = jax.random.fold_in(rng, epoch)
        order = np.asarray(jax.random.permutation(key, len(x)))
        for first in range(0, len(x) - n + 1, n):
            rows = order[first : first + n]
            images, labels = scale(jnp.asarray(x[rows])), jnp.asarray(y[rows])
            keys = per_image(jax.random.fold_in(key, 1), first + jnp.arange(n))
            given = phi, phi_stats, opt, keys, f, images, labels, eps
            phi, phi_stats, opt = _ascend(*given, solver=solver, loss=loss, tx=tx)
    return as_attack(solver, phi, phi_stats, loss)


def best_response(s: Subject, response: Play) -> Check:
    """The points by which the trained response lowers what AutoAttack left standing."""
    before = s.stood(EVERYTHING)
    fell = int(before.sum() - s.after(response, before).sum())
    why = f"phi fells {fell} of the {int(before.sum())} images that AutoAttack left"
    return judge("best_response", LIMITS["best_response"], 100 * fell / len(before), why, fell)
