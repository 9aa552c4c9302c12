"""The nouns of the game: what a solver returns, what a method is, what a run carries.

Symbols are the paper's ("Learning to Defend by Learning to Attack", arXiv 1811.01213):
theta classifier, phi attacker, f logits, g attacker output in [-1, 1], ell loss, delta
perturbation, eps radius of the l_inf ball on the [0, 1] scale.

`rng` in a solver is an array of keys, one per image, so that what an image draws depends on its row
in the global batch and not on how the batch is cut over devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

Array = jax.Array
Tree = Any  # a pytree of arrays: parameters, statistics, optimiser state
Mode = Literal["eval", "batch", "update"]
"""BatchNorm: running statistics | the batch's own, mutation discarded | the batch's own, kept."""

Apply = Callable[..., tuple[Array, Tree]]
"""f : (theta, stats, x, mode, rng=None) -> logits, stats.  g has the same form: (phi, ...)."""

Seeing = Callable[..., tuple[Array, Tree]]
"""f as a loss calls it: (theta, stats, x, draw=0) -> logits, stats. The mode is bound in.

`draw` counts the passes of a step, so that each has a dropout mask of its own.
"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ell:
    """ell : (theta, x_adv) -> loss per example [B], and the statistics its passes leave behind.

    `ell(theta, x)` is the loss alone. `ell.look(theta, x)` is the loss and the ell that has seen x:
    under `craft_bn=update` its `stats` have moved. `loss` is (theta, stats, x, draw) -> loss [B],
    stats; `looks` counts the passes so far.
    """

    loss: Callable[..., tuple[Array, Tree]] = dataclasses.field(metadata={"static": True})
    stats: Tree = dataclasses.field(default_factory=dict)
    looks: Array | int = 0

    def __call__(self, theta: Tree, x: Array) -> Array:
        """The loss of every example."""
        return self.loss(theta, self.stats, x, self.looks)[0]

    def look(self, theta: Tree, x: Array) -> tuple[Array, "Ell"]:
        """The loss of every example, and the ell that has seen them."""
        loss, stats = self.loss(theta, self.stats, x, self.looks)
        return loss, dataclasses.replace(self, stats=stats, looks=self.looks + 1)

    def after(self, stats: Tree) -> "Ell":
        """The same ell with statistics that other passes have moved."""
        return dataclasses.replace(self, stats=stats)


def without_statistics(loss: Callable[[Tree, Array], Array]) -> Ell:
    """The Ell of a plain (theta, x_adv) -> loss [B]."""
    return Ell(lambda theta, stats, x, draw: (loss(theta, x), stats))


class Inner(NamedTuple):
    """What the inner problem returns: delta(theta, phi) and what phi climbs besides the loss.

    |delta| <= radius * eps and x + delta in [0, 1]. Which derivatives may pass is the solver's
    choice, made by `stop_gradient` and by nothing else. `theta_stats` are the classifier's
    statistics after the passes that made delta, `ell.stats` of the last look; None says that the
    classifier was not looked at.
    """

    delta: Array
    gain: Array | float = 0.0
    phi_stats: Tree = {}
    theta_stats: Tree | None = None
    y: Array | None = None
    aux: dict[str, Array] = {}


def no_phi(rng: Array, x: Array) -> tuple[Tree, Tree]:
    """The init of a solver that learns nothing: there is no phi."""
    return {}, {}


class Solver(NamedTuple):
    """An inner problem: `init(rng, x) -> phi, phi_stats` and `solve(...) -> Inner`.

    solve  : (rng, theta, phi, phi_stats, ell, x, y, *, eps, train) -> Inner
    radius : delta's own ball over eps; only N-FGSM plays beyond 1
    begins_at_x : whether the first input gradient is taken at x itself, where KL(f(x) || f(x)) has
    none
    looks_at_delta : whether the authors' code passes x + delta once more while it crafts, for a
    slope that autodiff has from the training loss (Fast-BAT); craft_bn="update" counts that pass
    """

    init: Callable[[Array, Array], tuple[Tree, Tree]]
    solve: Callable[..., Inner]
    radius: float = 1
    begins_at_x: bool = False
    looks_at_delta: bool = False


class Method(NamedTuple):
    """A row of METHODS made concrete: the game between theta and phi.

    attack_loss : (f, theta, stats, x, y) -> ell, with f in the mode of crafting (`Seeing`)
    train_loss  : (rng, f, ell, theta, theta_stats, x, inner, y, *, eps)
                  -> loss, theta_stats, metrics, with one key per image in rng and f in the turn's
                  own mode (`Seeing`). The step itself records the loss as "theta/loss"
    probe       : (method, f, craft_bn) -> (rng, state, x, y, eps) -> metrics, once per epoch
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
    learning rate. ema and ema_stats are the moving averages of theta and of theta_stats: together
    they are a model; {} where none is kept.
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
    ema_stats: Tree


class Batch(NamedTuple):
    """What one step of training sees: images in [0, 1], [B, H, W, C], and their labels [B]."""

    x: Array
    y: Array
