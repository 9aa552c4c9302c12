"""Attack anything that maps images to logits: here scikit-learn's logistic regression, in JAX.

    python examples/evaluate_anything.py

f takes images [B, H, W, C] in [0, 1] and must be written in JAX, because attacks follow its
gradient. An attack is a name, as `evaluate.py --help` lists them, or a function of your own.
"""

import warnings

import jax
import jax.numpy as jnp
from sklearn.linear_model import LogisticRegression

import l2ljax
from l2ljax.data import load, scale
from l2ljax.evaluation import Evaluation


def shift(rng, f, x, y, *, eps, norm):
    """An attack of your own: every image brighter by eps."""
    return jnp.clip(x + eps, 0, 1)


def main(images: int = 200, eps: float = 0.1) -> Evaluation:
    """The table of all attacks."""
    data = load("digits")
    x, y = scale(jnp.asarray(data.x_train)), jnp.asarray(data.y_train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(max_iter=200).fit(x.reshape(len(x), -1), y)
    weights = jnp.asarray(model.coef_.T, jnp.float32), jnp.asarray(model.intercept_, jnp.float32)

    def logits(weights, x):
        return x.reshape(len(x), -1) @ weights[0] + weights[1]

    f = jax.tree_util.Partial(logits, weights)  # with other weights nothing is compiled again
    x, y = data.x_test[:images], data.y_test[:images]  # uint8, or floats in [0, 1]
    return l2ljax.evaluate(f, x, y, eps=eps, attacks=["clean", "fgsm", "pgm10", "apgd-ce", shift])


if __name__ == "__main__":
    table = main()
    print(table)
    print(table.accuracy["pgm10"], table.intervals["pgm10"])
