"""Your own Flax model, with or without BatchNorm and Dropout: train, attack, measure it.

    python examples/own_model.py

`functional` makes the model a function apply(theta, stats, x, mode); if its `__call__` has an
argument `train`, that is true where statistics are the batch's own. `freeze` makes it the f of an
attack, images -> logits; attacks and evaluation take any such function.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2ljax import Method, functional, init_state, initialise, make_step
from l2ljax.attacks import parse, pgd
from l2ljax.data import load, scale
from l2ljax.evaluation.accuracy import freeze, robust
from l2ljax.losses import ATTACK_LOSSES, adversarial
from l2ljax.solvers import none, pgm

DENSE = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(128), nn.relu, nn.Dense(10)])


class DropoutNet(nn.Module):
    """The same with BatchNorm and Dropout, which have two modes each: so there is a `train`."""

    @nn.compact
    def __call__(self, x, train):
        """Images [B, H, W, C] in [0, 1] to logits [B, 10]; without a key nothing is dropped."""
        h = nn.BatchNorm(use_running_average=not train)(nn.Dense(128)(x.reshape(len(x), -1)))
        drop = train and self.has_rng("dropout")
        return nn.Dense(10)(nn.Dropout(0.2, deterministic=not drop)(nn.relu(h)))


def main(steps: int = 200, eps: float = 0.1) -> dict[str, dict[str, float]]:
    """Accuracy under PGM-10 of both models, each trained on clean images and against PGM."""
    data, key, sgd, accuracy = load("digits"), jax.random.key(0), optax.sgd(0.05, 0.9), {}
    x, y = scale(jnp.asarray(data.x_train)), jnp.asarray(data.y_train)
    for name, model in {"dense": DENSE, "dropout": DropoutNet()}.items():
        apply, (theta, stats) = functional(model), initialise(model, key, x)
        for training, solver in {"plain": none(), "pgm": pgm(3, eps / 2, "uniform")}.items():
            method = Method(solver, ATTACK_LOSSES["ce"], adversarial(0.0))
            state = init_state(key, theta, stats, method, sgd, sgd, x)
            step = jax.jit(make_step(apply, method, sgd, sgd, eps=eps))
            for rows in np.random.default_rng(0).integers(len(x), size=(steps, 128)):
                state, _ = step(state, (x[rows], y[rows]), key)
            classify = freeze(apply)(state.theta, state.theta_stats)
            how = {"steps": 10, "step_size": eps / 3, "start": "zero", "loss": "ce"}
            stood = classify(pgd(key, classify, x, y, eps=eps, **how)).argmax(-1) == y
            test = data.x_test, data.y_test, parse("pgm10")
            on_test = robust(key, classify, *test, eps=eps, batch_size=250).mean()
            accuracy[f"{name}, {training}"] = {"train": float(stood.mean()), "test": on_test}
    return accuracy


if __name__ == "__main__":
    for name, shares in main().items():
        print(f"under PGM-10, {name} training:", {k: f"{v:.1%}" for k, v in shares.items()})
