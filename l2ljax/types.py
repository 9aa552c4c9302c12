"""The nouns of the game: what a solver returns, what a method is, what a run carries.

Symbols are the paper's ("Learning to Defend by Learning to Attack", arXiv 1811.01213):
theta classifier, phi attacker, f logits, g attacker output in [-1, 1], ell loss, delta
perturbation, eps radius of the l_inf ball on the [0, 1] scale.

`key` or `rng` is one key and `keys` is an array of them, one per image, so that what an image draws
depends on its row in the global batch and not on how the batch is cut over devices.

Random streams go by purpose, so that no two uses of one key can meet:
`jax.random.split(key)[i]` is `fold_in(key, i)`: two uses that number their draws, each from 0, get
the same keys. A purpose is a word, and its checksum is the number that is folded in.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from l2ljax.errors import InputError

Array = jax.Array
Tree = Any  # a pytree of arrays: parameters, statistics, optimiser state
Mode = Literal["eval", "batch", "update"]
"""BatchNorm: running statistics | the batch's own, mutation discarded | the batch's own, kept."""

Apply = Callable[..., tuple[Array, Tree]]
"""apply : (theta, stats, x, mode, rng=None) -> logits, stats. g has the same form: (phi, ...)."""

Forward = Callable[..., tuple[Array, Tree]]
"""forward : (theta, stats, x, draw=0) -> logits, stats: the classifier with its mode bound.

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


class Problem(NamedTuple):
    """One inner problem: the images, the loss that delta is to raise, and the ball it stays in.

    x and y are images [B, H, W, C] in [0, 1] and their labels, eps the radius of the l_inf ball
    (an array where it is warmed up). `keys` has one key an image; a training loss is given other
    keys than the solver. `train` says whether phi learns from this solution: then its statistics
    move, and what only phi needs is computed.
    """

    ell: Ell
    x: Array
    y: Array
    eps: Array | float
    keys: Array
    train: bool


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


def no_phi(key: Array, x: Array) -> tuple[Tree, Tree]:
    """The init of a solver that learns nothing: there is no phi."""
    return {}, {}


class Solver(NamedTuple):
    """How an inner problem is solved: what there is to learn, and delta for a given problem.

    init : (key, x) -> phi, phi_stats, for images like x
    solve : (problem, theta, phi, phi_stats) -> Inner
    radius : delta's own ball over eps; only N-FGSM plays beyond 1
    begins_at_x : whether the first input gradient is taken at x itself, where KL(f(x) || f(x)) has
    none
    looks_at_delta : whether the authors' code passes x + delta once more while it crafts, for a
    slope that autodiff has from the training loss (Fast-BAT); craft_bn="update" counts that pass
    """

    init: Callable[[Array, Array], tuple[Tree, Tree]]
    solve: Callable[[Problem, Tree, Tree, Tree], Inner]
    radius: float = 1
    begins_at_x: bool = False
    looks_at_delta: bool = False


AttackLoss = Callable[[Forward, Tree, Tree, Array, Array], Ell]
"""attack_loss : (forward, theta, stats, x, y) -> ell, with forward in the mode of crafting."""

TrainLoss = Callable[[Forward, Problem, Tree, Tree, Inner], tuple[Array, Tree, dict[str, Array]]]
"""train_loss : (forward, problem, theta, theta_stats, inner) -> loss, theta_stats, metrics.

forward is in the mode of the turn. Each of its passes has a `draw` of its own, and with it a
dropout mask of its own. The step itself records the loss as "theta/loss".
"""

Probe = Callable[..., dict[str, Array]]
"""probe : (key, state, x, y, eps) -> metrics, once per epoch."""


class Method(NamedTuple):
    """The game between theta and phi: an inner problem, its loss, and what theta descends.

    learns : whether there is a phi that ascends; `order` says when it moves
    probe : (method, apply, craft_bn) -> Probe, for diagnostics beside the training
    paired : whether an image's attack depends on another image of its batch
    selects : the validation accuracy by which the best epoch of a run is chosen
    """

    solver: Solver
    attack_loss: AttackLoss
    train_loss: TrainLoss
    learns: bool = False
    order: Literal["simultaneous", "alternating"] = "simultaneous"
    probe: Callable[..., Probe] | None = None
    paired: bool = False
    selects: Literal["robust", "clean"] = "robust"


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


def as_keys(rng: Any) -> Array:
    """rng as typed keys; the raw numbers of `jax.random.PRNGKey` become the key they are."""
    if isinstance(rng, (jax.Array, np.ndarray)):
        keys = rng if isinstance(rng, jax.Array) else jax.numpy.asarray(rng)
        if jax.numpy.issubdtype(keys.dtype, jax.dtypes.prng_key):
            return keys
        width = jax.random.key_data(jax.random.key(0)).shape
        if keys.dtype == np.uint32 and keys.shape[-1:] == width:
            return jax.random.wrap_key_data(keys)
    raise InputError(f"rng is a {type(rng).__name__} and no key: pass jax.random.key(0)")


def one_key(rng: Any) -> Array:
    """rng as one typed key."""
    keys = as_keys(rng)
    if keys.ndim:
        raise InputError(f"rng holds keys {list(keys.shape)}: pass one key, jax.random.key(0)")
    return keys


def stream(rng: Array, purpose: str) -> Array:
    """The key that a key, or each of an array of keys, has for that purpose."""
    number = zlib.crc32(purpose.encode())
    if rng.ndim == 0:
        return jax.random.fold_in(rng, number)
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(rng)
