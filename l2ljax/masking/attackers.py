"""The checks that need more than the subject: other classifiers, or a learned attacker phi.

    play = train_response(rng, f, x, y, solver=solver, phi=phi, phi_stats=phi_stats, loss="ce",
                          tx=optax.adam(1e-3), eps=8/255, epochs=10, batch_size=64)
    check = best_response(subject, play)

`train_response` makes an attack that is adapted to this very classifier: theta is frozen in eval
mode, and phi alone goes on playing, up the loss of f(x + delta). It may train on the images it then
attacks: whoever attacks knows them, and their labels.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2ljax import gate
from l2ljax.attacks.entrance import check_dataset, classifier
from l2ljax.attacks.learned import learned_attack
from l2ljax.attacks.pgd import pgd
from l2ljax.ball import per_image, scale
from l2ljax.losses import ATTACK_LOSSES, cross_entropy, plain_ell
from l2ljax.masking.subject import Check, PlayAttack, Subject, make_check
from l2ljax.types import Array, Problem, Solver, Tree


def _on_sibling(rng, f, x, y, *, eps, norm, sibling):
    settings = {"steps": 10, "step_size": eps / 3, "start": "zero", "loss": "ce"}
    return pgd(rng, sibling, x, y, eps=eps, norm=norm, **settings)


def transfer(s: Subject, siblings: Sequence[Callable[[Array], Array]]) -> Check:
    """Do images made on another classifier harm more than those made on this one itself?

    Accuracy under PGM-10 minus that under PGM-10 made on a sibling, the worst of them. A sibling is
    any other classifier of the same images: another seed, another method.
    """
    white, everything = s.stood("pgm10"), s.stood("clean")
    left = []
    for sibling in siblings:
        check_dataset(sibling, s.x, s.y, batch_size=s.batch_size)
        play = partial(_on_sibling, sibling=classifier(sibling))
        left.append(s.after(play, everything).mean())
    gap = white.mean() - min(left)
    why = f"pgm10 {100 * white.mean():.1f} %, made on a sibling {100 * min(left):.1f} %"
    return make_check("transfer", 100 * gap, why, round(gap * len(white)))


def as_attack(solver: Solver, phi: Tree, phi_stats: Tree, loss: str) -> PlayAttack:
    """phi as `attacks.learned_attack` plays it; the solver scales the gradient by the image."""

    def play(rng, f, x, y, *, eps, norm):
        given = {"solver": solver, "phi": phi, "phi_stats": phi_stats, "loss": loss}
        return learned_attack(rng, f, x, y, eps=eps, **given)

    return play


def own_attacker(s: Subject, attacker: PlayAttack) -> Check:
    """Does the model's own attacker phi, trained against it, find more than PGM-10?

    Accuracy under PGM-10 minus that under phi, which makes one pass or a few.
    """
    white, left = s.stood("pgm10"), s.after(attacker, s.stood("clean"))
    gap = white.mean() - left.mean()
    why = f"pgm10 {100 * white.mean():.1f} %, phi {100 * left.mean():.1f} %"
    return make_check("own_attacker", 100 * gap, why, round(gap * len(white)))


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


def train_response(
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
) -> PlayAttack:
    """phi after so many passes over the images, as an attack; f stays as it is.

    The solver scales the gradient by the image ("per_example_max", "sign"), as the attack does.
    """
    gate.word("loss", loss, ATTACK_LOSSES)
    gate.check_eps(eps)
    gate.check_count("epochs", epochs)
    x, y, _ = check_dataset(f, x, y, batch_size=batch_size)
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


def best_response(s: Subject, response: PlayAttack) -> Check:
    """Does phi, trained against this very classifier, find what AutoAttack missed?

    The points by which it lowers what AutoAttack left standing.
    """
    before = s.stood("autoattack")
    fell = int(before.sum() - s.after(response, before).sum())
    why = f"phi fells {fell} of the {int(before.sum())} images that AutoAttack left"
    return make_check("best_response", 100 * fell / len(before), why, fell)
