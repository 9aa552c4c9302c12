"""pi_theta(a|s) as four functions of theta: categorical where actions are counted, else Gaussian.

The one surprising thing: a Gaussian's action is unbounded and the task clips it. Its likelihood is
that of the action before; what followers and experts are asked for is the clipped one.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from l2ljax.imitation.environments import Environment
from l2ljax.imitation.nets import Policy as Net
from l2ljax.types import Array, Tree

Leader = Callable[[Array, Array], Array]
"""log pi_theta(a|s) of one s [d] and a, theta bound: what a follower may ask of the leader."""


class Policy(NamedTuple):
    """`init(rng) -> theta`; of one state s [d]: sample, log_prob, mode, entropy."""

    init: Callable[[Array], Tree]
    sample: Callable[[Array, Tree, Array], Array]
    log_prob: Callable[[Tree, Array, Array], Array]
    mode: Callable[[Tree, Array], Array]
    entropy: Callable[[Tree, Array], Array]


def make_policy(env: Environment) -> Policy:
    """The policy of a task."""
    net = Net(env.actions, 0 if env.actions else len(env.high))
    high = jnp.asarray(env.high)

    def init(rng: Array) -> Tree:
        return net.init(rng, jnp.zeros(env.d))["params"]

    def of(theta: Tree, s: Array) -> tuple[Array, Array]:
        out, spread = net.apply({"params": theta}, s)
        out = jax.nn.log_softmax(out) if env.actions else high * out
        return out, spread  # pyright: ignore

    def sample(rng: Array, theta: Tree, s: Array) -> Array:
        out, spread = of(theta, s)
        if env.actions:
            return jax.random.categorical(rng, out)
        return out + high * jnp.exp(spread) * jax.random.normal(rng, out.shape)

    def log_prob(theta: Tree, s: Array, a: Array) -> Array:
        out, spread = of(theta, s)
        if env.actions:
            return out[a]
        z = (a - out) / (high * jnp.exp(spread))
        return jnp.sum(-0.5 * z**2 - spread - jnp.log(high) - 0.5 * math.log(2 * math.pi))

    def mode(theta: Tree, s: Array) -> Array:
        out, _ = of(theta, s)
        return jnp.argmax(out) if env.actions else out

    def entropy(theta: Tree, s: Array) -> Array:
        out, spread = of(theta, s)
        if env.actions:
            return -jnp.sum(jnp.exp(out) * out)
        return jnp.sum(spread + jnp.log(high) + 0.5 * math.log(2 * math.pi * math.e))

    return Policy(init, sample, log_prob, mode, entropy)
