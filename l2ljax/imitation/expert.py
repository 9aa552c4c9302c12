"""An expert's trajectories: made by PPO on the task's own reward, kept as npz with their returns.

`PATH.npz` holds environment, s, a, lengths, terminated, returns (imitation/demonstrations.py), and
how they were made. The expert is the best of a few seeds on episodes of its own; its trajectories
are those of its most likely actions.
"""

import json
import pathlib
import zipfile
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.errors import InputError
from l2ljax.imitation import (
    FOLLOWERS,
    PPO,
    Demonstrations,
    Environment,
    Settings,
    collect,
    init_state,
    make_iteration,
    make_policy,
    play,
)
from l2ljax.imitation.demonstrations import nobody
from l2ljax.machine import cache_folder, describe
from l2ljax.progress import Progress

TRAJECTORIES = 10
KEYS = ("environment", "s", "a", "lengths", "terminated", "returns", "made")

COPIES, STEPS, SEEDS = 16, 128, 4
RECIPES: dict[str, tuple[int, PPO]] = {
    "CartPole-v1": (150, PPO()),
    "Acrobot-v1": (150, PPO(lr=1e-3, entropy=0.01)),
    "MountainCarContinuous-v0": (150, PPO(lr=1e-3, gamma=0.999, entropy=0.01)),
    "Pendulum-v1": (300, PPO(lr=1e-3, gamma=0.9, epochs=10, minibatches=8)),
}
"""Iterations and settings by task; each seed of SEEDS plays COPIES x STEPS steps an iteration."""


def default_path(environment: str) -> pathlib.Path:
    """Where a task's demonstrations lie if nobody says otherwise."""
    return cache_folder("demonstrations") / f"{environment}.npz"


def make_expert(env: Environment, path: pathlib.Path, seed: int) -> Demonstrations:
    """Train an expert, let it play, write what it did."""
    act, how = trained(env, seed)
    rng = jax.random.fold_in(jax.random.key(seed), 2**31 - 3)
    found = collect(env, jax.jit(lambda rng: play(rng, env, act, TRAJECTORIES))(rng))
    write(path, found, {"expert": how, "seed": seed, **describe()})
    return found


def trained(env: Environment, seed: int) -> tuple[Any, str]:
    """PPO with several seeds at once; the best on 20 episodes of its own."""
    iterations, ppo = RECIPES[env.name]
    policy = make_policy(env)
    follower = FOLLOWERS["environment"](env, Settings())
    iterate = make_iteration(
        env, policy, follower, ppo, copies=COPIES, steps=STEPS, absorbing=False
    )
    start = jax.vmap(lambda s: init_state(s, env, policy, follower, ppo, COPIES))
    state, step = start(seed + jnp.arange(SEEDS)), jax.jit(jax.vmap(iterate, (0, None)))
    pairs = nobody(env)
    with Progress(iterations, label=f"expert of {env.name}") as bar:
        for i in range(iterations):
            state, metrics = step(state, pairs)
            bar.update(i + 1, best=f"{float(jnp.nanmax(metrics['return'])):.1f}")
    theta = state.theta["policy"]

    def tried(theta: Any) -> jax.Array:
        rng = jax.random.fold_in(jax.random.key(seed), 2**31 - 2)
        return play(rng, env, lambda rng, s: policy.mode(theta, s), 20).total.mean()

    best = int(jnp.argmax(jax.jit(jax.vmap(tried))(theta)))
    theta = jax.tree.map(lambda leaf: leaf[best], theta)
    how = f"PPO, {iterations * COPIES * STEPS} steps, the best of {SEEDS} seeds"
    return lambda rng, s: policy.mode(theta, s), how


def write(path: pathlib.Path, found: Demonstrations, made: dict[str, Any]) -> None:
    """All of it in one npz, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **found._asdict(), made=json.dumps(made))
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def read(path: pathlib.Path, env: Environment) -> Demonstrations:
    """The demonstrations of that task, checked."""
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; python experiments/gail.py --make_expert "
            f"--environment={env.name} makes it"
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            if missing := [key for key in KEYS if key not in content.files]:
                raise InputError(f"{path} holds no demonstrations: it lacks {', '.join(missing)}")
            fields = {key: content[key] for key in Demonstrations._fields}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged, or no npz file: {error}") from None
    found = Demonstrations(**{**fields, "environment": str(fields["environment"])})
    if found.environment != env.name:
        raise InputError(f"{path} holds demonstrations of {found.environment}, not of {env.name}")
    n, action = int(found.lengths.sum()), () if env.actions else (len(env.high),)
    shapes = found.s.shape, found.a.shape
    if not n or shapes != ((n, env.d), (n, *action)):
        raise InputError(f"{path} holds no whole trajectories of {env.name}: s, a are {shapes}")
    if not all(np.isfinite(leaf).all() for leaf in (found.s, found.a, found.returns)):
        raise InputError(f"{path} holds numbers that are not finite")
    return found
