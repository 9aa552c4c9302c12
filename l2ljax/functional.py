"""A module made a function: f(theta, stats, x, mode, rng) -> logits, stats (`types.Apply`).

The three BatchNorm modes are spelled out here and nowhere else. Works for any Flax module, with or
without BatchNorm and with or without a `train` argument; nothing of Flax is imported, `init` and
`apply` are all that is used. A module without statistics has stats = {}.
"""

import dataclasses
import inspect
from typing import Any

import jax
from jax.core import Tracer

from l2ljax.types import Apply, Array, Mode, Tree

MODES = ("eval", "batch", "update")


def functional(module: Any) -> Apply:
    """f : (theta, stats, x, mode, rng=None) -> logits, stats; equal modules give equal f.

    eval: running statistics. batch: the batch's own, and the stats given come back unchanged.
    update: the batch's own, and the stats come back updated. rng is the dropout key; without one
    this package's networks leave dropout out, also in the two training modes.
    """
    return Functional(module, _takes_train(module))


def initialise(module: Any, rng: Array, x: Array) -> tuple[Tree, Tree]:
    """theta, stats from a key and a batch of the right shape; stats = {} without BatchNorm."""
    keywords = {"train": False} if _takes_train(module) else {}

    def init(rng: Array, x: Array) -> dict[str, Tree]:
        return dict(module.init(rng, x, **keywords))

    if isinstance(rng, Tracer) or isinstance(x, Tracer):
        variables = init(rng, x)
    else:
        # Compiled, so that the forward pass that only serves to find shapes is never computed. On
        # the CPU LLVM takes 5 s to optimise a WRN-10-2's random draws, and 1 s if told not to.
        options: dict[str, str | bool] = {}
        if jax.default_backend() == "cpu":
            options = {"xla_backend_optimization_level": "0"}
        variables = jax.jit(init).lower(rng, x).compile(options)(rng, x)
    return variables.pop("params", {}), variables


@dataclasses.dataclass(frozen=True)
class Functional:
    """What `functional` returns: a value, so that it may be a static argument of a jit."""

    module: Any
    takes_train: bool

    def __call__(
        self, theta: Tree, stats: Tree, x: Array, mode: Mode, rng: Array | None = None
    ) -> tuple[Array, Tree]:
        """Logits and statistics in one of the three modes."""
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        train = mode != "eval"
        keywords: dict[str, Any] = {"train": train} if self.takes_train else {}
        if rng is not None:
            keywords["rngs"] = {"dropout": rng}
        variables = {"params": theta, **stats}
        if not train or not stats:
            return self.module.apply(variables, x, **keywords), stats
        logits, updated = self.module.apply(variables, x, mutable=list(stats), **keywords)
        return logits, {**stats, **updated} if mode == "update" else stats


def _takes_train(module: Any) -> bool:
    return "train" in inspect.signature(module.__call__).parameters
