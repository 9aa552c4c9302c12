"""Behaviour cloning, the baseline that plays no game: maximum likelihood on the expert's pairs."""

import jax
import jax.numpy as jnp
import optax

from l2ljax.imitation.demonstrations import draw
from l2ljax.imitation.followers import Pairs
from l2ljax.imitation.policy import Policy
from l2ljax.types import Array, Tree


def clone(
    rng: Array, policy: Policy, expert: Pairs, *, steps: int, batch: int, lr: float
) -> tuple[Tree, Array]:
    """theta after so many steps of Adam on -mean log pi(a|s), and the loss of each."""
    start, rest = jax.random.split(rng)
    theta, tx = policy.init(start), optax.adam(lr)

    def loss(theta: Tree, pairs: Pairs) -> Array:
        log_prob = jax.vmap(policy.log_prob, (None, 0, 0))(theta, pairs.s, pairs.a)
        counts = 1 - pairs.absorbing
        return -jnp.sum(log_prob * counts) / jnp.maximum(counts.sum(), 1)

    def step(carry: tuple[Tree, Tree], rng: Array):
        theta, opt = carry
        value, grads = jax.value_and_grad(loss)(theta, draw(rng, expert, batch))
        updates, opt = tx.update(grads, opt, theta)
        return (optax.apply_updates(theta, updates), opt), value

    (theta, _), losses = jax.lax.scan(step, (theta, tx.init(theta)), jax.random.split(rest, steps))
    return theta, losses
