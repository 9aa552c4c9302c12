"""One turn of the game: the leader plays, the follower climbs, the leader is paid and moves.

    turn = make_turn(env, policy, follower, ppo, copies=16, steps=128, absorbing=True)
    turn = jax.jit(turn)
    state = init_state(0, env, policy, follower, ppo, copies=16)
    state, metrics = turn(state, expert)        # expert: the pairs of the demonstrations

A turn is a pure function of (state, expert), so that several seeds are a `vmap` over states. After
an episode has terminated, the leader is paid for the absorbing state for ever after (Kostrikov et
al. 2019): then it is the expert that decides whether ending an episode is good, and not the sign of
the reward. Rewards are divided by the spread of their discounted sums so far. They are constants
for the leader.

The leader moves by proximal policy optimisation (Schulman et al. 2017, the clipped objective) with
generalised advantages (2016). The value of an episode that was cut off for time includes the value
of the state it had reached; an episode that terminated is worth nothing from there on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2ljax.imitation.followers import Follower, Pairs, draw_pairs
from l2ljax.imitation.leader import (
    MLP,
    Environment,
    Places,
    Policy,
    Rollout,
    roll_out,
    start_places,
)
from l2ljax.types import Array, Tree


class PPO(NamedTuple):
    """The settings of the leader's update."""

    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    epochs: int = 4
    minibatches: int = 4
    theta_lr: float = 3e-4
    entropy: float = 0.0
    max_norm: float = 0.5


class Batch(NamedTuple):
    """What PPO sees of T steps of N copies, flattened to [T N, ...]."""

    s: Array
    a: Array
    log_prob: Array
    advantage: Array
    target: Array


class Moments(NamedTuple):
    """Of the discounted sums of rewards: how many were seen, their mean and their variance."""

    count: Array
    mean: Array
    variance: Array
    sums: Array
    """The N sums as they stand."""


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


def init_state(
    seed: int | Array, env: Environment, policy: Policy, follower: Follower, ppo: PPO, copies: int
) -> State:
    """The start of a seed's run."""
    seed = jnp.asarray(seed, jnp.int32)
    # Turns fold in their number; 2**31 - 1 is the number of none.
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
        start_places(keys[3], env, copies),
        Moments(zero, zero, zero, jnp.zeros(copies)),
        jnp.full((), jnp.nan, jnp.result_type(float)),  # typed as a turn returns it
    )


def make_turn(
    env: Environment,
    policy: Policy,
    follower: Follower,
    ppo: PPO,
    *,
    copies: int,
    steps: int,
    absorbing: bool,
) -> Callable[[State, Pairs], tuple[State, dict[str, Array]]]:
    """(state, expert) -> state, metrics: `steps` steps of each of `copies` copies of the task."""
    update = make_update(ppo, make_loss(ppo, policy, value))

    def turn(state: State, expert: Pairs) -> tuple[State, dict[str, Array]]:
        rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
        play, follow, learn, *choose = jax.random.split(rng, 5)
        theta = state.theta["policy"]
        places, seen = roll_out(play, env, policy, theta, state.places, steps)

        def leader(s: Array, a: Array) -> Array:
            return policy.log_prob(jax.lax.stop_gradient(theta), s, a)

        acted, ended = own_pairs(env, seen)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), acted, ended)
        shown = (
            draw_pairs(key, side, len(acted.s))
            for key, side in zip(choose, (both, expert), strict=True)
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
        moved = State(
            state.step + 1, state.seed, new, opt_theta, phi, opt_phi, places, moments, returned
        )
        return moved, metrics | told | {"return": returned, "theta/reward": rewards.mean()}

    return turn


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
    """Rewards [T, N] divided by the spread of all discounted sums up to now."""

    def add(sums: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, end = now
        sums = gamma * sums + reward
        return jnp.where(end, 0.0, sums), sums

    sums, seen = jax.lax.scan(add, moments.sums, (rewards, done))
    n, old = seen.size, moments.count
    gap = seen.mean() - moments.mean
    mean = moments.mean + gap * n / (old + n)
    variance = moments.variance * old + seen.var() * n + gap**2 * old * n / (old + n)
    variance = variance / (old + n)
    return Moments(old + n, mean, variance, sums), rewards / jnp.sqrt(variance + 1e-8)


def value(theta: Tree, s: Array) -> Array:
    """V(s) of states [..., d]."""
    return MLP(1).apply({"params": theta}, s)[..., 0]  # pyright: ignore


def optimiser(ppo: PPO) -> optax.GradientTransformation:
    """Adam under a bound on the gradient's norm, for the policy and its value together."""
    return optax.chain(optax.clip_by_global_norm(ppo.max_norm), optax.adam(ppo.theta_lr, eps=1e-5))


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
