"""What all followers share: the interface, the pairs they see, their objective and the reward.

D(s, a; phi) = sigmoid(h) is the probability that a pair came from the policy (Ho & Ermon 2016);
the follower climbs L_D = mean log D(policy) + mean log(1 - D(expert)), and the leader is paid for
looking like the expert. A follower is a NamedTuple of pure functions; a new one is one file and one
row in FOLLOWERS.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2ljax.imitation.environments import Environment
from l2ljax.imitation.nets import MLP
from l2ljax.imitation.policy import Leader
from l2ljax.types import Array, Tree


class Pairs(NamedTuple):
    """States and actions [B, ...]; `absorbing` is 1 after an episode has terminated."""

    s: Array
    a: Array
    absorbing: Array
    weight: Array  # how often a pair counts in a draw; 0: never
    reward: Array  # the task's own, for the control that sees it


class Settings(NamedTuple):
    """The settings of a follower; each one takes what concerns it."""

    lr: float = 1e-3
    steps: int = 1
    reward: str = "airl"
    penalty: float = 10.0
    state_gradient: bool = False
    unroll: int = 3
    rule_lr: float = 1e-3


class Follower(NamedTuple):
    """init(rng) -> phi, opt;  update(rng, phi, opt, leader, policy, expert) -> phi, opt, metrics;

    reward(phi, leader, pairs) -> [B], in which no gradient passes to the leader.
    """

    init: Callable[[Array], tuple[Tree, Tree]]
    update: Callable[..., tuple[Tree, Tree, dict[str, Array]]]
    reward: Callable[[Tree, Leader, Pairs], Array]


REWARDS: dict[str, Callable[[Array], Array]] = {
    "airl": lambda h: -h,  # log(1 - D) - log D
    "gail": lambda h: jax.nn.softplus(-h),  # -log D, never negative
    "negative": lambda h: -jax.nn.softplus(h),  # log(1 - D), never positive
}
"""What the leader is paid as a function of D's logit."""

Logit = Callable[[Tree, Leader, Pairs], Array]
"""h [B], D's logit."""


def pair(env: Environment, pairs: Pairs) -> Array:
    """[s, a, absorbing] as a row of numbers."""
    return jnp.concatenate([pairs.s, env.encode(pairs.a), pairs.absorbing[:, None]], -1)


def seen_of_a_pair(env: Environment) -> int:
    """How many numbers that is."""
    return env.d + env.width + 1


def objective(logit: Logit) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """(phi, leader, policy, expert) -> L_D, metrics."""

    def L_D(phi: Tree, leader: Leader, policy: Pairs, expert: Pairs):
        h, h_expert = logit(phi, leader, policy), logit(phi, leader, expert)
        value = jnp.mean(jax.nn.log_sigmoid(h)) + jnp.mean(jax.nn.log_sigmoid(-h_expert))
        right = jnp.mean(h > 0) + jnp.mean(h_expert < 0)
        return value, {"phi/objective": value, "phi/accuracy": right / 2}

    return L_D


def climb(settings: Settings, gain: Callable) -> tuple[Any, Callable]:
    """(optimiser, update): steps of Adam up `gain(rng, phi, leader, policy, expert)`."""
    tx = optax.adam(settings.lr)

    def update(rng: Array, phi: Tree, opt: Tree, leader: Leader, policy: Pairs, expert: Pairs):
        def step(carry: tuple[Tree, Tree], rng: Array):
            phi, opt = carry
            grads, metrics = jax.grad(
                lambda phi: gain(rng, phi, leader, policy, expert), has_aux=True
            )(phi)
            # Ascent: the gradient is negated before the optimiser sees it.
            updates, opt = tx.update(jax.tree.map(jnp.negative, grads), opt, phi)
            return (optax.apply_updates(phi, updates), opt), metrics

        keys = jax.random.split(rng, settings.steps)
        (phi, opt), metrics = jax.lax.scan(step, (phi, opt), keys)
        return phi, opt, jax.tree.map(jnp.mean, metrics)

    return tx, update


def discriminator(
    env: Environment,
    settings: Settings,
    *,
    extra: int = 0,
    see: Callable[[Leader, Pairs], Array] | None = None,
    plus: Callable[[Leader, Pairs], Array] | None = None,
    gain: Callable[[Logit], Callable] | None = None,
) -> Follower:
    """h = g([s, a, absorbing, see]; phi) + plus, climbing `gain`, or L_D itself."""
    net = MLP(1)

    def logit(phi: Tree, leader: Leader, pairs: Pairs) -> Array:
        seen = [pair(env, pairs)] + ([see(leader, pairs)] if see is not None else [])
        h = net.apply({"params": phi}, jnp.concatenate(seen, -1))[:, 0]  # pyright: ignore
        return h if plus is None else h + plus(leader, pairs)

    L_D = objective(logit)
    tx, update = climb(settings, gain(logit) if gain else lambda rng, *args: L_D(*args))

    def init(rng: Array) -> tuple[Tree, Tree]:
        phi = net.init(rng, jnp.zeros(seen_of_a_pair(env) + extra))["params"]
        return phi, tx.init(phi)

    def reward(phi: Tree, leader: Leader, pairs: Pairs) -> Array:
        return jax.lax.stop_gradient(REWARDS[settings.reward](logit(phi, leader, pairs)))

    return Follower(init, update, reward)


def still(reward: Callable[[Tree, Leader, Pairs], Array]) -> Follower:
    """A follower that never learns: a reward alone."""
    return Follower(lambda rng: ({}, {}), lambda rng, phi, opt, *_: (phi, opt, {}), reward)


def log_prob(leader: Leader, pairs: Pairs) -> Array:
    """A(s, a, theta) = log pi_theta(a|s) [B], detached; 0 where there is no state to act in."""
    values = jax.lax.stop_gradient(jax.vmap(leader)(pairs.s, pairs.a))
    return jnp.where(pairs.absorbing > 0, 0.0, values)
