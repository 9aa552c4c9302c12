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
    """f : (theta, stats, x, mode, rng=None, features=False) -> logits, stats.

    Equal modules give equal f.

    eval: running statistics. batch: the batch's own, and the stats given come back unchanged.
    update: the batch's own, and the stats come back updated. rng is the dropout key; without one
    this package's networks leave dropout out, also in the two training modes. features=True gives
    what the last layer sees, in place of the logits, from a module that takes this keyword.
    """
    return Functional(module, _takes(module, "train"))


def initialise(module: Any, rng: Array, x: Array) -> tuple[Tree, Tree]:
    """theta, stats from a key and a batch of the right shape; stats = {} without BatchNorm."""
    keywords = {"train": False} if _takes(module, "train") else {}

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
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        train = mode != "eval"
        keywords: dict[str, Any] = {"train": train} if self.takes_train else {}
        if rng is not None:
            keywords["rngs"] = {"dropout": rng}
        if features:
            if not _takes(self.module, "features"):
                name = type(self.module).__name__
                raise ValueError(f"{name} gives no features: its __call__ has no such keyword")
            keywords["features"] = True
        variables = {"params": theta, **stats}
        if not train or not stats:
            return self.module.apply(variables, x, **keywords), stats
        out, updated = self.module.apply(variables, x, mutable=list(stats), **keywords)
        return out, {**stats, **updated} if mode == "update" else stats


def _takes(module: Any, keyword: str) -> bool:
    return keyword in inspect.signature(module.__call__).parameters
