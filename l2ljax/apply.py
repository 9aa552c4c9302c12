"""A model made a function: apply(theta, stats, x, mode, rng) -> logits, stats (`types.Apply`).

    apply, theta, stats = as_apply(model, rng, x)

The three BatchNorm modes are spelled out here and nowhere else. `as_apply` takes linen modules and
nnx models, with or without BatchNorm, dropout and other random streams; `functional` and
`initialise` serve the first kind alone, and `functional_nnx` the second. How a model is told
whether it trains is said in `switches`.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from l2ljax import devices
from l2ljax.devices import is_cpu, jit_is_disabled
from l2ljax.errors import InputError, word
from l2ljax.models.layers import BY_ROW
from l2ljax.switches import check_switch, features_asked, switched
from l2ljax.types import Apply, Array, Forward, Mode, Tree, one_key

MODES = ("eval", "batch", "update")


def as_apply(model: Any, rng: Array, x: Array) -> tuple[Apply, Tree, Tree]:
    """apply, theta, stats of a linen module or an nnx model, for images of the shape of x.

    A linen module's theta is drawn from rng. An nnx model has its weights already.
    """
    if _is_linen(model):
        return functional(model), *initialise(model, rng, x)
    return functional_nnx(model)


def apply_of(model: Any) -> Apply:
    """The apply of `as_apply`, for whoever needs no weights: nothing is drawn."""
    return functional(model) if _is_linen(model) else functional_nnx(model)[0]


def _is_linen(model: Any) -> bool:
    """Whether the model is to be read as a linen module; a class is, and is then refused."""
    return isinstance(model, type) or (hasattr(model, "init") and hasattr(model, "apply"))


def functional(module: Any) -> Apply:
    """f : (theta, stats, x, mode, rng=None, features=False) -> logits, stats.

    Equal modules give equal f.

    eval: running statistics. batch: the batch's own, and the stats given come back unchanged.
    update: the batch's own, and the stats come back updated. rng feeds dropout and every other
    random stream; without one this package's networks leave dropout out. features=True gives what
    the last layer sees, in place of the logits, from a module that takes this keyword.
    """
    return Functional(_check_module(module))


def _check_module(module: Any) -> Any:
    """The module, if it is one of flax.linen and no class."""
    if isinstance(module, type):
        raise InputError(f"{module.__name__} is a class: pass a module, {module.__name__}(...)")
    if not (callable(module) and hasattr(module, "init") and hasattr(module, "apply")):
        raise InputError(
            f"{type(module).__name__} has no init and apply: functional takes flax.linen modules; "
            "for a flax.nnx model there is functional_nnx"
        )
    return module


def initialise(module: Any, rng: Array, x: Array) -> tuple[Tree, Tree]:
    """theta, stats from a key and a batch of the right shape; stats = {} without BatchNorm."""
    if isinstance(module, type) or not hasattr(module, "init"):
        _check_module(module)
    module, keywords = switched(module, train=False)
    rng = one_key(rng)
    if isinstance(x, tuple) and all(isinstance(side, int) for side in x):
        raise InputError(f"x is the shape {x}: pass a batch of images, such as jnp.zeros({x})")

    def init(rng: Array, x: Array) -> dict[str, Tree]:
        return dict(module.init(rng, x, **keywords))

    if isinstance(rng, Tracer) or isinstance(x, Tracer) or jit_is_disabled():
        variables = init(rng, x)
    else:
        # Compiled, so that the forward pass that only serves to find shapes is never computed. On
        # the CPU LLVM takes 5 s to optimise a WRN-10-2's random draws, and 1 s if told not to.
        options: dict[str, str | bool] = {}
        if is_cpu():
            options = {"xla_backend_optimization_level": "0"}
        variables = jax.jit(init).lower(rng, x).compile(options)(rng, x)
    theta = variables.pop("params", {})
    check_switch(module, variables)
    return theta, variables


@dataclasses.dataclass(frozen=True)
class Functional:
    """What `functional` returns: a value, so that it may be a static argument of a jit."""

    module: Any

    def __call__(
        self,
        theta: Tree,
        stats: Tree,
        x: Array,
        mode: Mode,
        rng: Array | None = None,
        *,
        features: bool = False,
    ) -> tuple[Array, Tree]:
        """Logits, or the features before them, and statistics in one of the three modes."""
        word("mode", mode, MODES)
        _check_trees(theta, stats, x)
        check_switch(self.module, stats)
        train = mode != "eval"
        module, keywords = switched(self.module, train)
        if rng is not None:
            keywords["rngs"] = _streams(rng)
        keywords |= features_asked(module, features)
        variables = {"params": theta, **stats}

        def apply(**more: Any) -> Any:
            return _served(module, mode, x, lambda: module.apply(variables, x, **keywords, **more))

        if not train or not stats:
            return apply(), stats
        out, updated = apply(mutable=list(stats))
        return out, {**stats, **updated} if mode == "update" else stats


def _streams(rng: Array) -> dict[str, Array]:
    """A linen module's random streams; Flax draws any other name from `params`.

    Under pmap each device has streams of its own, or all would draw the same dropout mask. The
    package's Dropout draws by an image's row in the whole batch, from a key that is one for all.
    """
    dropout, params = jax.random.split(rng, 2)
    streams = {"dropout": devices.own_key(dropout), "params": devices.own_key(params)}
    return streams | {BY_ROW: dropout} if devices.is_mapped() else streams


def functional_nnx(model: Any) -> tuple[Apply, Tree, Tree]:
    """f, theta, stats of a flax.nnx model: f as from `functional`, the rest as nested dicts.

    theta holds the model's `nnx.Param`, stats everything else that changes, such as BatchNorm's
    averages. Dropout draws from the rng that f is given; without one, and in eval mode, the model
    is deterministic. The model itself is not changed.
    """
    from flax import nnx  # most users need linen alone

    if not isinstance(model, nnx.Module):
        raise InputError(f"{type(model).__name__} is no flax.nnx model: use functional")
    model = nnx.clone(model)
    graphs: dict[bool, Any] = {}
    parts: Any = ()
    for train in (True, False):
        model.train() if train else model.eval()
        graphs[train], *parts = nnx.split(model, nnx.Param, nnx.RngState, ...)
    theta, keys, stats = (nnx.to_pure_dict(part) for part in parts)

    def f(theta, stats, x, mode, rng=None, *, features=False):
        word("mode", mode, MODES)
        train = mode != "eval"
        if train and rng is None and keys:
            raise InputError(_needs_key(model, mode))
        fresh = keys if rng is None else _reseeded(keys, rng)
        called = nnx.merge(graphs[train], theta, fresh, stats)
        _, keywords = switched(called, train)
        keywords |= features_asked(called, features)
        out = _served(called, mode, x, lambda: called(x, **keywords))
        if mode != "update":
            return out, stats
        *_, moved = nnx.split(called, nnx.Param, nnx.RngState, ...)
        return out, nnx.to_pure_dict(moved)

    return f, theta, stats


def _check_trees(theta: Tree, stats: Tree, x: Any) -> None:
    """An InputError unless theta and stats are parts of a module's variables, and x is of floats.

    A whole dict of variables as `stats` would win over theta without a word.
    """
    for name, tree in (("theta", theta), ("stats", stats)):
        if not isinstance(tree, Mapping):
            raise InputError(
                f"{name} is a {type(tree).__name__}: call f(theta, stats, x, mode) with "
                "theta, stats = initialise(module, key, x)"
            )
        if "params" in tree:
            raise InputError(
                f"{name} is the whole dict of variables: theta is variables['params'], and stats "
                "is the rest of it"
            )
    if isinstance(x, (jax.Array, np.ndarray)) and not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"x is {x.dtype}: a network takes floats in [0, 1], as gate.images(x)")


def check_apply(f: Any) -> None:
    """An InputError unless f can be called as f(theta, stats, x, mode, rng)."""
    if callable(f) and not hasattr(f, "apply"):
        try:
            inspect.signature(f).bind("theta", "stats", "x", "eval", "rng")
            return
        except TypeError:
            pass
    raise InputError(
        f"f is a {type(f).__name__} and must be f(theta, stats, x, mode, rng) -> logits, stats: "
        "functional(module) makes one"
    )


def pass_again(f: Forward, theta: Tree, x: Array, before: Tree, after: Tree, later: Tree) -> Tree:
    """The statistics that one more pass over x makes of `later`, without the cost of that pass.

    `after` is what a pass over x has made of `before`. BatchNorm's new average is linear in its old
    one, so the same batch moves `later` to after + move(later - before), and of the pass in which
    `move` is found nothing is left to compute. Statistics of any other kind get that pass.
    """

    def moved(stats: Tree) -> Tree:
        return f(theta, stats, x)[1]

    if not _of_batch_norm(before):
        return moved(later)
    move = jax.linearize(moved, before)[1]
    return jax.tree.map(jnp.add, after, move(jax.tree.map(jnp.subtract, later, before)))


def _of_batch_norm(stats: Tree) -> bool:
    """Whether all statistics bear the names that Flax's BatchNorm gives its averages."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(stats)]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    return all(name.rpartition("/")[2] in ("mean", "var") for name in names)


def _reseeded(keys: Tree, rng: Array) -> Tree:
    """The states of all random streams, begun anew from one key."""
    leaves, structure = jax.tree.flatten(keys)

    def one(i: int, leaf: Array) -> Array:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.fold_in(rng, i) if is_key else jnp.zeros_like(leaf)

    return jax.tree.unflatten(structure, [one(i, leaf) for i, leaf in enumerate(leaves)])


def _needs_key(module: Any, mode: Mode) -> str:
    name = type(module).__name__
    if mode == "eval":
        return (
            f"{name} draws random numbers in eval mode too: attacks need a model that is "
            "deterministic there, with nn.Dropout(rate, deterministic=not train)"
        )
    return f"{name} draws random numbers in mode {mode!r}: give f a key, f(..., rng=key)"


def _shapes(x: Any) -> str:
    return " and ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(x))


def _served(module: Any, mode: Mode, x: Array, call: Callable[[], Any]) -> Any:
    """What the call returns; what it cannot serve, in one line that says how to write it."""
    name = type(module).__name__
    try:
        return call()
    except flax.errors.InvalidRngError:
        raise InputError(_needs_key(module, mode)) from None
    except (
        flax.errors.ScopeParamShapeError,
        flax.errors.ScopeParamNotFoundError,
        flax.errors.ScopeCollectionNotFound,
    ) as error:
        said = " ".join(str(error).split()).partition(" (http")[0]
        raise InputError(
            f"theta and its statistics are not those of this {name} for inputs {_shapes(x)}: {said}"
        ) from None
    except NameError as error:
        if "axis name" not in str(error):
            raise
        raise InputError(
            f"{name} averages over a device axis that is not there ({error}): leave axis_name out; "
            "on one device, and with the batch sharded, statistics are those of the whole batch"
        ) from None
