"""An attack of your own: the worst of a few random corners of the ball.

    python experiments/train.py --final_attacks=clean,examples/own_attack.py:random_corners
    python experiments/evaluate.py --workdir=A --attacks=clean,examples/own_attack.py:random_corners

It is attack(rng, f, x, y, *, eps, norm) -> x_adv, with f: images -> logits. What it returns is
classified again and measured against ball and box before it counts. From Python the function
itself will do: `l2ljax.evaluate(f, x, y, eps=0.1, attacks=["clean", random_corners])`.
"""

import jax
import jax.numpy as jnp

from l2ljax.losses import cross_entropy

TRIES = 20


def random_corners(rng, f, x, y, *, eps, norm):
    """Of TRIES corners of the ball, for every image the one with the largest loss."""
    step = eps if norm == "linf" else eps / x[0].size ** 0.5

    def one(best, key):
        found, height = best
        corner = jnp.clip(x + step * jax.random.rademacher(key, x.shape, x.dtype), 0, 1)
        loss = cross_entropy(f(corner), y)
        higher = loss > height
        found = jnp.where(higher[:, None, None, None], corner, found)
        return (found, jnp.where(higher, loss, height)), None

    start = x, cross_entropy(f(x), y)
    (found, _), _ = jax.lax.scan(one, start, jax.random.split(rng, TRIES))
    return found
