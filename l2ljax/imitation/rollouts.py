"""The leader plays: T steps of N copies of a task, and whole episodes for an evaluation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from l2ljax.imitation.environments import Environment
from l2ljax.imitation.policy import Policy
from l2ljax.types import Array, Tree


class Places(NamedTuple):
    """Where N copies of a task are: their states, observations, and the return so far."""

    state: Tree
    s: Array
    total: Array


class Rollout(NamedTuple):
    """T steps of N copies, every field [T, N, ...]; `total` is the return where one is done."""

    s: Array
    a: Array
    log_prob: Array
    reward: Array
    terminated: Array
    done: Array
    last: Array
    total: Array


def begin(rng: Array, env: Environment, copies: int) -> Places:
    """N copies at their start."""
    s, state = jax.vmap(env.reset)(jax.random.split(rng, copies))
    return Places(state, s, jnp.zeros(copies))


def roll_out(
    rng: Array, env: Environment, policy: Policy, theta: Tree, places: Places, steps: int
) -> tuple[Places, Rollout]:
    """T steps of pi_theta from where the copies are."""
    copies = len(places.s)

    def step(places: Places, rng: Array) -> tuple[Places, Rollout]:
        draw, move = (jax.random.split(key, copies) for key in jax.random.split(rng))
        a = jax.vmap(policy.sample, (0, None, 0))(draw, theta, places.s)
        log_prob = jax.vmap(policy.log_prob, (None, 0, 0))(theta, places.s, a)
        after = jax.vmap(env.step)(move, places.state, a)
        total = places.total + after.reward
        seen = Rollout(
            places.s, a, log_prob, after.reward, after.terminated, after.done, after.last, total
        )
        return Places(after.state, after.s, jnp.where(after.done, 0.0, total)), seen

    return jax.lax.scan(step, places, jax.random.split(rng, steps))


class Episode(NamedTuple):
    """Whole episodes, [n, horizon, ...]; `alive` marks the steps before each one's end."""

    s: Array
    a: Array
    alive: Array
    terminated: Array
    total: Array  # [n], the return


def play(rng: Array, env: Environment, act, episodes: int) -> Episode:
    """Episodes of act(rng, s) -> a from their start to their end."""

    def one(rng: Array) -> Episode:
        first, rest = jax.random.split(rng)
        s, state = env.reset(first)

        def step(carry, key):
            s, state, alive = carry
            draw, move = jax.random.split(key)
            a = env.clip(act(draw, s))
            after = env.step(move, state, a)
            seen = s, a, alive, after.terminated & alive, jnp.where(alive, after.reward, 0.0)
            return (after.s, after.state, alive & ~after.done), seen

        start = s, state, jnp.asarray(True)
        _, (s, a, alive, terminated, reward) = jax.lax.scan(
            step, start, jax.random.split(rest, env.horizon)
        )
        return Episode(s, a, alive, terminated.any(), reward.sum())

    return jax.vmap(one)(jax.random.split(rng, episodes))
