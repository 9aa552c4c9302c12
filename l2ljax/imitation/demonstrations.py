"""An expert's trajectories as arrays, and the pairs that a follower sees of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.errors import InputError
from l2ljax.imitation.environments import Environment
from l2ljax.imitation.followers.follower import Pairs
from l2ljax.imitation.rollouts import Episode
from l2ljax.types import Array


class Demonstrations(NamedTuple):
    """Trajectories one after another: s [n, d] and a [n, ...] of all of them, and of each one

    its length, whether it terminated (or was cut off for time), and its return.
    """

    environment: str
    s: np.ndarray
    a: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    returns: np.ndarray


def collect(env: Environment, episodes: Episode) -> Demonstrations:
    """What was alive of some episodes."""
    alive = np.asarray(episodes.alive)
    return Demonstrations(
        env.name,
        np.asarray(episodes.s)[alive],
        np.asarray(episodes.a)[alive],
        alive.sum(1),
        np.asarray(episodes.terminated),
        np.asarray(episodes.total),
    )


def first(demonstrations: Demonstrations, trajectories: int) -> Demonstrations:
    """The first so many trajectories."""
    there = len(demonstrations.lengths)
    if not 0 < trajectories <= there:
        raise InputError(f"{trajectories} trajectories asked for, 1 to {there} are there")
    n = int(demonstrations.lengths[:trajectories].sum())
    d = demonstrations
    return Demonstrations(
        d.environment,
        d.s[:n],
        d.a[:n],
        d.lengths[:trajectories],
        d.terminated[:trajectories],
        d.returns[:trajectories],
    )


def expert_pairs(env: Environment, demonstrations: Demonstrations) -> Pairs:
    """Every pair, and one absorbing pair for every trajectory that terminated."""
    d = demonstrations
    s, a = jnp.asarray(d.s), jnp.asarray(d.a)
    n, ends = len(s), int(d.terminated.sum())
    return Pairs(
        jnp.concatenate([s, jnp.zeros((ends, *s.shape[1:]), s.dtype)]),
        jnp.concatenate([a, jnp.zeros((ends, *a.shape[1:]), a.dtype)]),
        jnp.concatenate([jnp.zeros(n), jnp.ones(ends)]),
        jnp.ones(n + ends),
        jnp.zeros(n + ends),
    )


def draw(rng: Array, pairs: Pairs, n: int) -> Pairs:
    """n of them, with replacement, each as often as it weighs."""
    rows = jax.random.choice(rng, len(pairs.weight), (n,), p=pairs.weight)
    return jax.tree.map(lambda leaf: leaf[rows], pairs)


def nobody(env: Environment) -> Pairs:
    """One pair that does not count: for followers that look at no expert."""
    a = jnp.zeros(1, jnp.int32) if env.actions else jnp.zeros((1, len(env.high)))
    zero = jnp.zeros(1)
    return Pairs(jnp.zeros((1, env.d)), a, zero, zero, zero)
