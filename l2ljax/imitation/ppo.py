"""The leader's update: proximal policy optimisation with generalised advantages.

Schulman et al. 2017 (the clipped objective) and 2016 (the advantages). The one surprising thing: an
episode that is cut off for time goes on in its value, one that terminates does not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2ljax.imitation.policy import Policy
from l2ljax.types import Array, Tree


class PPO(NamedTuple):
    """The settings of the leader's update."""

    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    epochs: int = 4
    minibatches: int = 4
    lr: float = 3e-4
    entropy: float = 0.0
    max_norm: float = 0.5


def optimiser(ppo: PPO) -> optax.GradientTransformation:
    """Adam under a bound on the gradient's norm, for the policy and its value together."""
    return optax.chain(optax.clip_by_global_norm(ppo.max_norm), optax.adam(ppo.lr, eps=1e-5))


def advantages(
    ppo: PPO, rewards: Array, values: Array, following: Array, terminated: Array, done: Array
) -> Array:
    """A_t = sum_k (gamma lambda)^k d_(t+k), d = r + gamma V(s') - V(s); all [T, N]."""
    surprise = rewards + ppo.gamma * following * (1 - terminated) - values

    def back(after: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        d, end = now
        a = d + ppo.gamma * ppo.lam * (1 - end) * after
        return a, a

    zero = jnp.zeros_like(surprise[0])
    return jax.lax.scan(back, zero, (surprise, done.astype(zero.dtype)), reverse=True)[1]


class Batch(NamedTuple):
    """What the update sees of a step, flattened to [T N, ...]."""

    s: Array
    a: Array
    log_prob: Array
    advantage: Array
    target: Array


def make_loss(ppo: PPO, policy: Policy, value: Callable) -> Callable[[Tree, Batch], Any]:
    """(theta, batch) -> loss, metrics; theta holds the policy's and the value's parameters."""

    def loss(theta: Tree, batch: Batch) -> tuple[Array, dict[str, Array]]:
        log_prob = jax.vmap(policy.log_prob, (None, 0, 0))(theta["policy"], batch.s, batch.a)
        ratio = jnp.exp(log_prob - batch.log_prob)
        a = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
        clipped = jnp.clip(ratio, 1 - ppo.clip, 1 + ppo.clip)
        gain = jnp.minimum(ratio * a, clipped * a).mean()
        error = jnp.mean((value(theta["value"], batch.s) - batch.target) ** 2)
        entropy = jax.vmap(policy.entropy, (None, 0))(theta["policy"], batch.s).mean()
        metrics = {
            "theta/entropy": entropy,
            "theta/value_error": error,
            "theta/kl": jnp.mean(batch.log_prob - log_prob),
        }
        return 0.5 * error - gain - ppo.entropy * entropy, metrics

    return loss


def make_update(ppo: PPO, loss: Callable) -> Callable[..., tuple[Tree, Tree, dict[str, Array]]]:
    """(rng, theta, opt, batch) -> theta, opt, metrics after all epochs over all minibatches."""
    tx = optimiser(ppo)

    def move(carry: tuple[Tree, Tree], batch: Batch):
        theta, opt = carry
        grads, metrics = jax.grad(loss, has_aux=True)(theta, batch)
        updates, opt = tx.update(grads, opt, theta)
        return (optax.apply_updates(theta, updates), opt), metrics

    def update(rng: Array, theta: Tree, opt: Tree, batch: Batch):
        def epoch(carry: tuple[Tree, Tree], rng: Array):
            order = jax.random.permutation(rng, len(batch.log_prob))
            cut = jax.tree.map(
                lambda leaf: leaf[order].reshape(ppo.minibatches, -1, *leaf.shape[1:]), batch
            )
            return jax.lax.scan(move, carry, cut)

        (theta, opt), metrics = jax.lax.scan(epoch, (theta, opt), jax.random.split(rng, ppo.epochs))
        return theta, opt, jax.tree.map(jnp.mean, metrics)

    return update
