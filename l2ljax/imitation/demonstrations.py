"""An expert's trajectories: made by PPO on the task's own reward, kept as npz, given to followers.

`PATH.npz` holds the fields of `Demonstrations` and how they were made. The expert is the best of a
few seeds on episodes of its own; its trajectories are those of its most likely actions. `clone` is
behaviour cloning, the baseline that learns from them without a game.
"""

import json
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2ljax.errors import InputError
from l2ljax.imitation.followers import (
    FollowerSettings,
    Pairs,
    draw_pairs,
    environment,
    no_pairs,
)
from l2ljax.imitation.leader import Environment, Policy, make_environment, make_policy
from l2ljax.imitation.training import PPO, init_state, make_turn
from l2ljax.machine import cache_folder, describe
from l2ljax.terminal import Progress
from l2ljax.types import Array, Tree

TRAJECTORIES = 10
"""How many an expert plays."""

COPIES, STEPS, SEEDS = 16, 128, 4
RECIPES: dict[str, tuple[int, PPO]] = {
    "CartPole-v1": (150, PPO()),
    "Acrobot-v1": (150, PPO(theta_lr=1e-3, entropy=0.01)),
    "MountainCarContinuous-v0": (150, PPO(theta_lr=1e-3, gamma=0.999, entropy=0.01)),
    "Pendulum-v1": (300, PPO(theta_lr=1e-3, gamma=0.9, epochs=10, minibatches=8)),
}
"""How a task's expert is made: turns and settings; a seed plays COPIES x STEPS steps a turn."""


class Demonstrations(NamedTuple):
    """Trajectories one after another: s [n, d] and a [n, ...] of all of them.

    Of each trajectory: its length, whether it terminated (or was cut off for time), its return.
    """

    environment: str
    s: np.ndarray
    a: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    returns: np.ndarray


class Episodes(NamedTuple):
    """n whole episodes, [n, horizon, ...]; `alive` marks the steps before each one's end."""

    s: Array
    a: Array
    alive: Array
    terminated: Array
    total: Array
    """[n], the returns."""


def play(
    rng: Array, env: Environment, act: Callable[[Array, Array], Array], episodes: int
) -> Episodes:
    """Whole episodes of act(rng, s) -> a."""

    def one(rng: Array) -> Episodes:
        first, rest = jax.random.split(rng)
        s, state = env.reset(first)

        def step(carry: tuple[Array, Tree, Array], key: Array):
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
        return Episodes(s, a, alive, terminated.any(), reward.sum())

    return jax.vmap(one)(jax.random.split(rng, episodes))


def evaluate(env: Environment, theta: Tree, seeds: Sequence[int], episodes: int) -> np.ndarray:
    """Returns [seeds, episodes] of the policies' most likely actions, on episodes of their own."""
    policy = make_policy(env)

    def one(theta: Tree, seed: Array) -> Array:
        rng = jax.random.fold_in(jax.random.key(seed), 2**31 - 4)
        return play(rng, env, lambda rng, s: policy.mode(theta, s), episodes).total

    return np.asarray(jax.jit(jax.vmap(one))(theta, jnp.asarray(seeds)))


def collect(env: Environment, episodes: Episodes) -> Demonstrations:
    """The steps of the episodes until their ends."""
    alive = np.asarray(episodes.alive)
    return Demonstrations(
        env.name,
        np.asarray(episodes.s)[alive],
        np.asarray(episodes.a)[alive],
        alive.sum(1),
        np.asarray(episodes.terminated),
        np.asarray(episodes.total),
    )


def first_trajectories(demonstrations: Demonstrations, trajectories: int) -> Demonstrations:
    """The first so many of them."""
    d = demonstrations
    if not 0 < trajectories <= len(d.lengths):
        raise InputError(f"{trajectories} trajectories asked for, 1 to {len(d.lengths)} are there")
    n = int(d.lengths[:trajectories].sum())
    of_each = (leaf[:trajectories] for leaf in (d.lengths, d.terminated, d.returns))
    return Demonstrations(d.environment, d.s[:n], d.a[:n], *of_each)


def expert_pairs(demonstrations: Demonstrations) -> Pairs:
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


def clone(
    rng: Array, policy: Policy, theta: Tree, expert: Pairs, *, steps: int, batch: int, lr: float
) -> tuple[Tree, Array]:
    """theta after so many steps of Adam on -mean log pi(a|s), and the loss of each step."""
    tx = optax.adam(lr)

    def loss(theta: Tree, pairs: Pairs) -> Array:
        log_prob = jax.vmap(policy.log_prob, (None, 0, 0))(theta, pairs.s, pairs.a)
        counts = 1 - pairs.absorbing
        return -jnp.sum(log_prob * counts) / jnp.maximum(counts.sum(), 1)

    def step(carry: tuple[Tree, Tree], rng: Array):
        theta, opt = carry
        value, grads = jax.value_and_grad(loss)(theta, draw_pairs(rng, expert, batch))
        updates, opt = tx.update(grads, opt, theta)
        return (optax.apply_updates(theta, updates), opt), value

    (theta, _), losses = jax.lax.scan(step, (theta, tx.init(theta)), jax.random.split(rng, steps))
    return theta, losses


class Cloned(NamedTuple):
    """The state of behaviour cloning as a game of one turn."""

    seed: Array
    theta: Tree


CLONING = {"steps": 5000, "batch": 256, "lr": 1e-3}
"""The settings of the follower `cloning`, behaviour cloning, which plays no game."""


def make_cloning(policy: Policy) -> tuple[Callable, Callable]:
    """init(seed) -> state, and turn(state, expert) -> state, {}, which does all of it."""

    def keys(seed: Array) -> Array:
        return jax.random.split(jax.random.key(seed))

    def init(seed: Array) -> Cloned:
        return Cloned(seed, {"policy": policy.init(keys(seed)[0])})

    def turn(state: Cloned, expert: Pairs) -> tuple[Cloned, dict[str, Array]]:
        theta, _ = clone(keys(state.seed)[1], policy, state.theta["policy"], expert, **CLONING)
        return Cloned(state.seed, {"policy": theta}), {}

    return init, turn


def default_path(task: str) -> pathlib.Path:
    """Where a task's demonstrations lie if nobody says otherwise."""
    return cache_folder("demonstrations") / f"{task}.npz"


def make_expert(
    task: str, path: str | pathlib.Path | None = None, *, seed: int = 0, progress: bool = False
) -> Demonstrations:
    """Train an expert and let it play; with a path, also write what it did."""
    env = make_environment(task)
    act, how = _train_expert(env, seed, progress)
    rng = jax.random.fold_in(jax.random.key(seed), 2**31 - 3)
    found = collect(env, jax.jit(lambda rng: play(rng, env, act, TRAJECTORIES))(rng))
    if path is not None:
        write(path, found, {"expert": how, "seed": seed, **describe()})
    return found


def _train_expert(
    env: Environment, seed: int, progress: bool
) -> tuple[Callable[[Array, Array], Array], str]:
    """PPO with several seeds at once; the best on 20 episodes of its own, and how it was made."""
    turns, ppo = RECIPES[env.name]
    policy, follower = make_policy(env), environment(env, FollowerSettings())
    turn = make_turn(env, policy, follower, ppo, copies=COPIES, steps=STEPS, absorbing=False)
    start = jax.vmap(lambda s: init_state(s, env, policy, follower, ppo, COPIES))
    state, step = start(seed + jnp.arange(SEEDS)), jax.jit(jax.vmap(turn, (0, None)))
    pairs = no_pairs(env)
    with Progress(turns, label=f"expert of {env.name}", silent=not progress) as bar:
        for i in range(turns):
            state, metrics = step(state, pairs)
            bar.update(i + 1, best=f"{float(jnp.nanmax(metrics['return'])):.1f}")
    theta = state.theta["policy"]

    def tried(theta: Tree) -> Array:
        rng = jax.random.fold_in(jax.random.key(seed), 2**31 - 2)
        return play(rng, env, lambda rng, s: policy.mode(theta, s), 20).total.mean()

    best = int(jnp.argmax(jax.jit(jax.vmap(tried))(theta)))
    theta = jax.tree.map(lambda leaf: leaf[best], theta)
    how = f"PPO, {turns * COPIES * STEPS} steps, the best of {SEEDS} seeds"
    return lambda rng, s: policy.mode(theta, s), how


def write(path: str | pathlib.Path, found: Demonstrations, made: dict[str, Any]) -> None:
    """All of it in one npz, whole or not at all; `made` says how they were made."""
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **found._asdict(), made=json.dumps(made))
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def read(path: str | pathlib.Path, env: Environment) -> Demonstrations:
    """The demonstrations of that task, checked."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; python experiments/gail.py --make_expert "
            f"--environment={env.name} makes it"
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            names = (*Demonstrations._fields, "made")
            if missing := [name for name in names if name not in content.files]:
                raise InputError(f"{path} holds no demonstrations: it lacks {', '.join(missing)}")
            fields = {name: content[name] for name in Demonstrations._fields}
    except InputError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged, or no npz file: {error}") from None
    found = Demonstrations(**{**fields, "environment": str(fields["environment"])})
    check(found, env, str(path))
    return found


def check(found: Demonstrations, env: Environment, where: str = "demonstrations") -> None:
    """An InputError that begins with `where`, unless a policy of that task can learn from them."""
    if found.environment != env.name:
        raise InputError(f"{where} holds demonstrations of {found.environment}, not of {env.name}")
    n, action = int(found.lengths.sum()), () if env.actions else (len(env.high),)
    shapes = found.s.shape, found.a.shape
    if not n or shapes != ((n, env.d), (n, *action)):
        raise InputError(f"{where} holds no whole trajectories of {env.name}: s, a are {shapes}")
    if not all(np.isfinite(leaf).all() for leaf in (found.s, found.a, found.returns)):
        raise InputError(f"{where} holds numbers that are not finite")
