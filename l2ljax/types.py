"""The nouns of the game: what a solver returns, what a method is, what a run carries.

Symbols are the paper's ("Learning to Defend by Learning to Attack", arXiv 1811.01213):
theta classifier, phi attacker, f logits, g attacker output in [-1, 1], ell loss, delta
perturbation, eps radius of the l_inf ball on the [0, 1] scale.

The one surprising thing: `rng` in a solver is an array of keys, one per image, so that what an
image draws depends on its row in the global batch and not on how the batch is cut over devices.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

Array = jax.Array
Tree = Any  # a pytree of arrays: parameters, statistics, optimiser state
Mode = Literal["eval", "batch", "update"]
"""BatchNorm: running statistics | the batch's own, mutation discarded | the batch's own, kept."""

Apply = Callable[..., tuple[Array, Tree]]
"""f : (theta, stats, x, mode, rng=None) -> logits, stats.  g has the same form: (phi, ...)."""

Ell = Callable[[Tree, Array], Array]
"""ell : (theta, x_adv) -> loss per example [B]; f, statistics, BatchNorm mode and y bound in."""


class Inner(NamedTuple):
    """What the inner problem returns: delta(theta, phi) and what phi climbs besides the loss.

    |delta| <= radius * eps and x + delta in [0, 1]. Which derivatives may pass is the solver's
    choice, made by `stop_gradient` and by nothing else.
    """

    delta: Array
    gain: Array | float = 0.0
    phi_stats: Tree = {}
    y: Array | None = None
    aux: dict[str, Array] = {}


def no_phi(rng: Array, x: Array) -> tuple[Tree, Tree]:
    """The init of a solver that learns nothing: there is no phi."""
    return {}, {}


class Solver(NamedTuple):
    """An inner problem: `init(rng, x) -> phi, phi_stats` and `solve(...) -> Inner`.

    solve : (rng, theta, phi, phi_stats, ell, x, y, *, eps, train) -> Inner
    radius: delta's own ball over eps; only N-FGSM plays beyond 1
    """

    init: Callable[[Array, Array], tuple[Tree, Tree]]
    solve: Callable[..., Inner]
    radius: float = 1


class Method(NamedTuple):
    """A row of METHODS made concrete: the game between theta and phi.

    attack_loss : (f, theta, x, y) -> ell, with f : (theta, x) -> logits
    train_loss  : (rng, f, ell, theta, theta_stats, x, inner, y, *, eps)
                  -> loss, theta_stats, metrics, with one key per image in rng and
                  f : (theta, stats, x) -> logits, stats (the turn's BatchNorm mode bound in)
    probe       : (method, f) -> (rng, state, x, y, eps) -> metrics, once per epoch
    """

    solver: Solver
    attack_loss: Callable[..., Ell]
    train_loss: Callable[..., tuple[Array, Tree, dict[str, Array]]]
    learns: bool
    order: Literal["simultaneous", "alternating"]
    probe: Callable[..., Callable[..., dict[str, Array]]] | None = None


class State(NamedTuple):
    """All that a run is: with (seed, data, flags) it determines everything that follows.

    rollbacks: how often the run was taken back; each starts a new random stream and halves theta's
    learning rate.
    """

    step: Array
    rollbacks: Array
    theta: Tree
    theta_stats: Tree
    opt_theta: Tree
    phi: Tree
    phi_stats: Tree
    opt_phi: Tree
    ema: Tree
