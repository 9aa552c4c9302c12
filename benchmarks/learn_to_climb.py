"""phi trained by Adam up the `gain` of its own solver, while the classifier is held fixed.

In stages, each with a T, a number of ascents and a rate: a phi that begins with a large T can end
where every pixel stays at the side of the ball it saw first, and the clips then pass no gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from climbs import Learned
from l2ljax.ball import scale
from l2ljax.errors import InputError
from l2ljax.losses import plain_ell
from l2ljax.models import CoordinateLSTM
from l2ljax.solvers import rnn
from l2ljax.types import Problem


def stages(o: dict) -> list[tuple[int, int, float]]:
    """(T, ascents, learning rate) of every stage of phi's training."""
    kinds = {"t_train": int, "ascents": int, "phi_lr": float}
    lists = []
    for name, kind in kinds.items():
        try:
            lists.append([kind(part) for part in o[name].split(",")])
        except ValueError:
            raise InputError(f"--{name}={o[name]} is no list of numbers") from None
        if min(lists[-1]) <= 0:
            raise InputError(f"--{name}={o[name]} must be positive")
    if len({len(values) for values in lists}) > 1:
        raise InputError("--t_train, --ascents and --phi_lr need a value for every stage")
    return list(zip(*lists, strict=True))


def train(f: Partial, x: np.ndarray, y: np.ndarray, eps: float, seed: int, o: dict) -> Learned:
    """phi by Adam up `gain` of the solver itself, the classifier f held fixed."""
    cell, rng = CoordinateLSTM(o["hidden"]), jax.random.key(seed)
    images, labels = scale(jnp.asarray(x)), jnp.asarray(y)
    n, phi = min(o["phi_batch"], len(images)), None
    for stage, (steps, ascents, rate) in enumerate(stages(o)):
        how = {name: o[name] for name in ("weights", "learned_step", "bound")}
        how |= {"preprocess": o["pre"], "start": "uniform", "remat": False}
        solver = rnn(cell, steps=steps, **how)
        tx = optax.adam(optax.cosine_decay_schedule(rate, ascents))

        @jax.jit
        def ascend(key, phi, opt, f, x, y, solver=solver, tx=tx):
            draw, start = jax.random.split(key)
            rows = jax.random.permutation(draw, len(x))[:n]
            x, y, keys = x[rows], y[rows], jax.random.split(start, n)

            ell = plain_ell("ce", f, x, y)

            def fallen(phi):
                problem = Problem(ell, x, y, eps, keys, train=True)
                return -solver.solve(problem, None, phi, {}).gain

            updates, opt = tx.update(jax.grad(fallen)(phi), opt)
            return optax.apply_updates(phi, updates), opt

        phi = solver.init(rng, images[:1])[0] if phi is None else phi
        opt, key = tx.init(phi), jax.random.fold_in(rng, stage)
        for i in range(ascents):
            phi, opt = ascend(jax.random.fold_in(key, i), phi, opt, f, images, labels)
    return Learned(cell, o["pre"], o["bound"], o["learned_step"], phi)
