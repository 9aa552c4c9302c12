"""Followers: what all of them share, the family of GAIL, and the controls that learn nothing.

D(s, a; phi) = sigmoid(h) is the probability that a pair came from the policy (Ho & Ermon 2016). The
follower climbs L_D = mean log D(policy) + mean log(1 - D(expert)), and the leader is paid for
looking like the expert. A follower is a NamedTuple of pure functions; what makes one takes the task
and the settings, and has a row in FOLLOWERS (`l2ljax.imitation`). The two L2L followers have a
file of their own.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2ljax.imitation.leader import MLP, Environment, Leader
from l2ljax.types import Array, Tree


class Pairs(NamedTuple):
    """States and actions [B, ...] as a follower sees them."""

    s: Array
    a: Array
    absorbing: Array
    """1 for the state after an episode has terminated, else 0."""
    weight: Array
    """How often a pair counts in a draw; 0: never."""
    reward: Array
    """The task's own, for the control that sees it."""


def draw_pairs(rng: Array, pairs: Pairs, n: int) -> Pairs:
    """n of the pairs, with replacement, each as often as it weighs."""
    rows = jax.random.choice(rng, len(pairs.weight), (n,), p=pairs.weight)
    return jax.tree.map(lambda leaf: leaf[rows], pairs)


def no_pairs(env: Environment) -> Pairs:
    """One pair that does not count, for followers that look at no expert."""
    a = jnp.zeros(1, jnp.int32) if env.actions else jnp.zeros((1, len(env.high)))
    zero = jnp.zeros(1)
    return Pairs(jnp.zeros((1, env.d)), a, zero, zero, zero)


class FollowerSettings(NamedTuple):
    """The settings of all followers; each one takes what concerns it."""

    phi_lr: float = 1e-3
    phi_steps: int = 1
    reward: str = "airl"
    penalty: float = 10.0
    state_gradient: bool = False
    unroll: int = 3
    rule_lr: float = 1e-3


class Follower(NamedTuple):
    """Three pure functions.

    init(rng) -> phi, opt;  update(rng, phi, opt, leader, policy, expert) -> phi, opt, metrics;
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


def pair_input(env: Environment, pairs: Pairs) -> Array:
    """[s, a, absorbing] of every pair as a row of numbers."""
    return jnp.concatenate([pairs.s, env.encode(pairs.a), pairs.absorbing[:, None]], -1)


def pair_size(env: Environment) -> int:
    """The length of such a row."""
    return env.d + env.width + 1


def log_prob(leader: Leader, pairs: Pairs) -> Array:
    """A(s, a, theta) = log pi_theta(a|s) [B], detached; 0 where there is no state to act in."""
    values = jax.lax.stop_gradient(jax.vmap(leader)(pairs.s, pairs.a))
    return jnp.where(pairs.absorbing > 0, 0.0, values)


def objective(logit: Logit) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """(phi, leader, policy, expert) -> L_D, metrics."""

    def L_D(phi: Tree, leader: Leader, policy: Pairs, expert: Pairs):
        h, h_expert = logit(phi, leader, policy), logit(phi, leader, expert)
        value = jnp.mean(jax.nn.log_sigmoid(h)) + jnp.mean(jax.nn.log_sigmoid(-h_expert))
        right = jnp.mean(h > 0) + jnp.mean(h_expert < 0)
        return value, {"phi/objective": value, "phi/accuracy": right / 2}

    return L_D


def climb(settings: FollowerSettings, gain: Callable) -> tuple[Any, Callable]:
    """(optimiser, update): steps of Adam up `gain(rng, phi, leader, policy, expert)`."""
    tx = optax.adam(settings.phi_lr)

    def update(rng: Array, phi: Tree, opt: Tree, leader: Leader, policy: Pairs, expert: Pairs):
        def step(carry: tuple[Tree, Tree], rng: Array):
            phi, opt = carry
            grads, metrics = jax.grad(
                lambda phi: gain(rng, phi, leader, policy, expert), has_aux=True
            )(phi)
            # Ascent: the gradient is negated before the optimiser sees it.
            updates, opt = tx.update(jax.tree.map(jnp.negative, grads), opt, phi)
            return (optax.apply_updates(phi, updates), opt), metrics

        keys = jax.random.split(rng, settings.phi_steps)
        (phi, opt), metrics = jax.lax.scan(step, (phi, opt), keys)
        return phi, opt, jax.tree.map(jnp.mean, metrics)

    return tx, update


def discriminator(
    env: Environment,
    settings: FollowerSettings,
    *,
    extra: int = 0,
    see: Callable[[Leader, Pairs], Array] | None = None,
    plus: Callable[[Leader, Pairs], Array] | None = None,
    gain: Callable[[Logit], Callable] | None = None,
) -> Follower:
    """h = g([s, a, absorbing, see]; phi) + plus; it climbs `gain`, or else L_D itself.

    `extra` is how many numbers `see` gives of a pair.
    """
    net = MLP(1)

    def logit(phi: Tree, leader: Leader, pairs: Pairs) -> Array:
        seen = [pair_input(env, pairs)] + ([see(leader, pairs)] if see is not None else [])
        h = net.apply({"params": phi}, jnp.concatenate(seen, -1))[:, 0]  # pyright: ignore
        return h if plus is None else h + plus(leader, pairs)

    L_D = objective(logit)
    tx, update = climb(settings, gain(logit) if gain else lambda rng, *args: L_D(*args))

    def init(rng: Array) -> tuple[Tree, Tree]:
        phi = net.init(rng, jnp.zeros(pair_size(env) + extra))["params"]
        return phi, tx.init(phi)

    def reward(phi: Tree, leader: Leader, pairs: Pairs) -> Array:
        return jax.lax.stop_gradient(REWARDS[settings.reward](logit(phi, leader, pairs)))

    return Follower(init, update, reward)


def gail(env: Environment, settings: FollowerSettings) -> Follower:
    """h = g([s, a]; phi): D sees the pair alone, as the naive attacker sees the image alone."""
    return discriminator(env, settings)


def gail_gp(env: Environment, settings: FollowerSettings) -> Follower:
    """GAIL under a gradient penalty, the control for every claim about stability.

    L_D - penalty * mean (|d h / d (s, a)| - 1)^2, on points between a policy's and an expert's pair
    (Gulrajani et al. 2017; for GAIL Kostrikov et al. 2019).
    """

    def gain(logit: Logit) -> Callable:
        L_D = objective(logit)

        def penalised(rng: Array, phi: Tree, leader: Leader, policy: Pairs, expert: Pairs):
            value, metrics = L_D(phi, leader, policy, expert)
            points = [pair_input(env, pairs) for pairs in (policy, expert)]
            t = jax.random.uniform(rng, (len(points[0]), 1))
            between = t * points[0] + (1 - t) * points[1]

            def h(point: Array) -> Array:
                return MLP(1).apply({"params": phi}, point)[0]  # pyright: ignore

            slopes = jnp.linalg.norm(jax.vmap(jax.grad(h))(between), axis=-1)
            penalty = jnp.mean((slopes - 1) ** 2)
            return value - settings.penalty * penalty, metrics | {"phi/penalty": penalty}

        return penalised

    return discriminator(env, settings, gain=gain)


def airl_like(env: Environment, settings: FollowerSettings) -> Follower:
    """h = g([s, a]; phi) + log pi_theta(a|s), g = -f (Fu et al. 2018).

    log pi is subtracted from f instead of fed to g: D = pi / (exp f + pi), so that the network need
    not learn the likelihood. The reward is f - log pi.
    """
    return discriminator(env, settings, plus=log_prob)


def fixed_reward(reward: Callable[[Tree, Leader, Pairs], Array]) -> Follower:
    """A follower that never learns: a reward alone."""
    return Follower(lambda rng: ({}, {}), lambda rng, phi, opt, *_: (phi, opt, {}), reward)


def constant_reward(env: Environment, settings: FollowerSettings) -> Follower:
    """The control that looks at nothing: -log 1/2 for every step of an episode, nothing after it.

    Where a long episode is a good one, this alone may solve the task.
    """
    return fixed_reward(lambda phi, leader, pairs: math.log(2) * (1 - pairs.absorbing))


def blind(env: Environment, settings: FollowerSettings) -> Follower:
    """The control D = 1/2 for every pair, under the run's own form of reward and absorbing states.

    Where this solves a task, the form of the reward does, and not imitation. With the defaults it
    pays log 1/2 - log 1/2 = 0.
    """
    paid = REWARDS[settings.reward](jnp.zeros(()))
    return fixed_reward(lambda phi, leader, pairs: jnp.full(len(pairs.s), paid))


def environment(env: Environment, settings: FollowerSettings) -> Follower:
    """The task's own reward. This is no imitation: it makes the experts, and is the ceiling."""
    return fixed_reward(lambda phi, leader, pairs: pairs.reward * (1 - pairs.absorbing))
