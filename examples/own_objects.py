"""A game of your own objects, in memory: net, arrays, optax chains, a callback that ends the run.

    python examples/own_objects.py

No flags and no folder. `make_game` takes a flax.linen or flax.nnx model, a method, arrays and any
optax chains; `fit` plays it with the validation, selection and guard of every run.
"""

import flax.linen as nn
import numpy as np
import optax

import l2ljax
from l2ljax.runs.run import Run


class DropoutNet(nn.Module):
    """BatchNorm and Dropout have two modes each, so that there is a `train`."""

    @nn.compact
    def __call__(self, x, train):
        """Images [B, H, W, C] in [0, 1] to logits [B, 10]; without a key nothing is dropped."""
        h = nn.BatchNorm(use_running_average=not train)(nn.Dense(128)(x.reshape(len(x), -1)))
        drop = train and self.has_rng("dropout")
        return nn.Dense(10)(nn.Dropout(0.2, deterministic=not drop)(nn.relu(h)))


def digits() -> tuple[np.ndarray, ...]:
    """x_train, y_train, x_test, y_test: four arrays, images uint8 or floats in [0, 1]."""
    from sklearn.datasets import load_digits

    x, y = map(np.asarray, load_digits(return_X_y=True))
    x = (x / 16).reshape(-1, 8, 8, 1).astype(np.float32)
    return x[:1300], y[:1300], x[1300:], y[1300:]


def main(epochs: int = 20, eps: float = 0.1) -> dict[str, Run]:
    """Two runs, of clean training and of the PGM Net, by name."""
    how = {"attack_loss": "ce", "clean_mix": True, "label_smoothing": 0.0}
    steps = {"inner_steps": 3, "inner_step": "0.5eps", "attacker_start": "uniform"}
    methods = {
        "plain": l2ljax.make_method("plain", label_smoothing=0.0),
        "pgm": l2ljax.make_method("pgm", **steps, **how),  # or a Method of your own
    }
    rate = optax.cosine_decay_schedule(3e-3, 9 * epochs)
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    players = {"tx_theta": chain, "tx_phi": optax.identity()}
    runs = {}
    for name, method in methods.items():
        game = l2ljax.make_game(DropoutNet(), method, digits(), eps=eps, batch_size=128, **players)
        enough = [lambda end: end.metrics["val/clean"] > 0.97]  # True ends the run
        runs[name] = l2ljax.fit(game, epochs=epochs, seed=0, callbacks=enough)
    return runs


if __name__ == "__main__":
    for name, run in main().items():
        test = {attack: r["accuracy"] for attack, r in run.summary["test"]["best"].items()}
        print(name, "ended after step", run.at("last").step, test)
