"""One iteration of the game: the leader plays, the follower climbs, the leader is paid and moves.

    turn = make_iteration(env, policy, follower, ppo, copies=16, steps=128, absorbing=True)
    iterate = jax.jit(turn)
    state = init_state(0, env, policy, follower, ppo, copies=16)
    state, metrics = iterate(state, expert)        # expert: the pairs of the demonstrations

A pure function of (state, expert): several seeds are a `vmap` over states. After an episode has
terminated the leader is paid for the absorbing state for ever after (Kostrikov et al. 2019), so
that ending one is good or bad by what the expert does and not by the reward's sign. Rewards are
divided by the spread of their discounted sums so far. They are constants for the leader.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from l2ljax.imitation.demonstrations import draw
from l2ljax.imitation.environments import Environment
from l2ljax.imitation.followers import Follower, Pairs
from l2ljax.imitation.nets import MLP
from l2ljax.imitation.policy import Policy
from l2ljax.imitation.ppo import PPO, Batch, advantages, make_loss, make_update, optimiser
from l2ljax.imitation.rollouts import Places, Rollout, begin, roll_out
from l2ljax.types import Array, Tree


class Moments(NamedTuple):
    """Of the discounted sums of rewards: how many were seen, their mean and squared spread."""

    count: Array
    mean: Array
    spread: Array
    sums: Array  # the N sums as they stand


class State(NamedTuple):
    """All that a run carries; `returned` is the mean return of the episodes that ended last."""

    step: Array
    seed: Array
    theta: Tree
    opt_theta: Tree
    phi: Tree
    opt_phi: Tree
    places: Places
    moments: Moments
    returned: Array


def value(theta: Tree, s: Array) -> Array:
    """V(s) of states [..., d]."""
    return MLP(1).apply({"params": theta}, s)[..., 0]  # pyright: ignore


def init_state(
    seed: int | Array, env: Environment, policy: Policy, follower: Follower, ppo: PPO, copies: int
) -> State:
    """The start of a seed's run."""
    seed = jnp.asarray(seed, jnp.int32)
    # Turns of the game fold in their number; 2**31 - 1 is none.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2**31 - 1), 4)
    theta = {
        "policy": policy.init(keys[0]),
        "value": MLP(1).init(keys[1], jnp.zeros(env.d))["params"],
    }
    phi, opt_phi = follower.init(keys[2])
    zero = jnp.zeros(())
    return State(
        jnp.zeros((), jnp.int32),
        seed,
        theta,
        optimiser(ppo).init(theta),
        phi,
        opt_phi,
        begin(keys[3], env, copies),
        Moments(zero, zero, zero, jnp.zeros(copies)),
        jnp.full((), jnp.nan),
    )


def make_iteration(
    env: Environment,
    policy: Policy,
    follower: Follower,
    ppo: PPO,
    *,
    copies: int,
    steps: int,
    absorbing: bool,
) -> Callable[[State, Pairs], tuple[State, dict[str, Array]]]:
    """(state, expert) -> state, metrics: `steps` steps of each of `copies` of the task."""
    update = make_update(ppo, make_loss(ppo, policy, value))

    def iterate(state: State, expert: Pairs) -> tuple[State, dict[str, Array]]:
        rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
        play, follow, learn, *choose = jax.random.split(rng, 5)
        theta = state.theta["policy"]
        places, seen = roll_out(play, env, policy, theta, state.places, steps)

        def leader(s: Array, a: Array) -> Array:
            return policy.log_prob(jax.lax.stop_gradient(theta), s, a)

        acted, ended = own_pairs(env, seen)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), acted, ended)
        shown = (
            draw(key, side, len(acted.s)) for key, side in zip(choose, (both, expert), strict=True)
        )
        phi, opt_phi, metrics = follower.update(follow, state.phi, state.opt_phi, leader, *shown)
        rewards = follower.reward(phi, leader, acted).reshape(steps, copies)
        terminated = seen.terminated.astype(rewards.dtype)
        if absorbing:
            after = follower.reward(phi, leader, ended).reshape(steps, copies)
            rewards += terminated * ppo.gamma / (1 - ppo.gamma) * after
        moments, scaled = normalise(state.moments, rewards, seen.done, ppo.gamma)
        values, following = (value(state.theta["value"], s) for s in (seen.s, seen.last))
        advantage = advantages(ppo, scaled, values, following, terminated, seen.done)
        batch = Batch(seen.s, seen.a, seen.log_prob, advantage, advantage + values)
        batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
        new, opt_theta, told = update(learn, state.theta, state.opt_theta, batch)
        episodes = seen.done.sum()
        mean = jnp.sum(seen.total * seen.done) / jnp.maximum(episodes, 1)
        returned = jnp.where(episodes > 0, mean, state.returned)
        metrics = metrics | told | {"return": returned, "theta/reward": rewards.mean()}
        return (
            State(
                state.step + 1, state.seed, new, opt_theta, phi, opt_phi, places, moments, returned
            ),
            metrics,
        )

    return iterate


def own_pairs(env: Environment, seen: Rollout) -> tuple[Pairs, Pairs]:
    """The leader's pairs [T N], and beside each the absorbing pair that counts if it terminated."""

    def flat(leaf: Array) -> Array:
        return leaf.reshape(-1, *leaf.shape[2:])

    s, a = flat(seen.s), flat(jax.vmap(jax.vmap(env.clip))(seen.a))
    zero, one = jnp.zeros(len(s)), jnp.ones(len(s))
    ends = flat(seen.terminated).astype(zero.dtype)
    return (
        Pairs(s, a, zero, one, flat(seen.reward)),
        Pairs(jnp.zeros_like(s), jnp.zeros_like(a), one, ends, zero),
    )


def normalise(moments: Moments, rewards: Array, done: Array, gamma: float) -> tuple[Moments, Array]:
    """Rewards [T, N] over the spread of all discounted sums up to now."""

    def add(sums: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, end = now
        sums = gamma * sums + reward
        return jnp.where(end, 0.0, sums), sums

    sums, seen = jax.lax.scan(add, moments.sums, (rewards, done))
    n, old = seen.size, moments.count
    gap = seen.mean() - moments.mean
    mean = moments.mean + gap * n / (old + n)
    spread = moments.spread * old + seen.var() * n + gap**2 * old * n / (old + n)
    spread = spread / (old + n)
    return Moments(old + n, mean, spread, sums), rewards / jnp.sqrt(spread + 1e-8)
