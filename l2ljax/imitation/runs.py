"""A run of imitation: turns of the game for all seeds at once, its files, its end.

The same command again resumes it, bit for bit: a turn is a function of the state alone. What is
written per turn is one value a seed, `return/3` being seed 3's mean return of the episodes that
ended last.
"""

import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.checkpoint import Checkpoints
from l2ljax.errors import InputError
from l2ljax.imitation import (
    FOLLOWERS,
    PPO,
    Environment,
    Policy,
    Settings,
    clone,
    init_state,
    make_iteration,
    make_policy,
    play,
)
from l2ljax.imitation.followers import Pairs
from l2ljax.machine import describe
from l2ljax.progress import Progress
from l2ljax.record import Record
from l2ljax.runs import settings as configuration
from l2ljax.runs.workdir import lock, open_workdir, write_json
from l2ljax.signals import Interrupted, Stop
from l2ljax.types import Tree

CLONING = {"steps": 5000, "batch": 256, "lr": 1e-3}
"""Of behaviour cloning, which has no turns."""


def imitate(
    config: dict[str, Any],
    seeds: Sequence[int],
    env: Environment,
    expert: Pairs,
    workdir: pathlib.Path,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Train every seed, evaluate, write; a finished run is read."""
    open_workdir(workdir, config, "all", configuration.read_json)
    policy, path = make_policy(env), workdir / "summary.json"
    with lock(workdir):
        if path.exists():
            summary = json.loads(path.read_text())
            if summary["episodes"] == options["episodes"]:
                return summary
        theta, seconds = trained(config, seeds, env, policy, expert, workdir, options)
        returns = evaluate(env, policy, theta, seeds, options["episodes"])
        summary = {
            "returns": [float(total) for total in returns.mean(1)],
            "spread": [float(total) for total in returns.std(1)],
            "episodes": options["episodes"],
            "seconds": seconds,
            "made_with": describe(),
        }
        write_json(path, summary)
    return summary


def evaluate(
    env: Environment, policy: Policy, theta: Tree, seeds: Sequence[int], episodes: int
) -> np.ndarray:
    """Returns [seeds, episodes] of the policies' most likely actions, on episodes of their own."""

    def one(theta: Tree, seed: jax.Array) -> jax.Array:
        rng = jax.random.fold_in(jax.random.key(seed), 2**31 - 4)
        return play(rng, env, lambda rng, s: policy.mode(theta, s), episodes).total

    return np.asarray(jax.jit(jax.vmap(one))(theta, jnp.asarray(seeds)))


def trained(
    config: dict[str, Any],
    seeds: Sequence[int],
    env: Environment,
    policy: Policy,
    expert: Pairs,
    workdir: pathlib.Path,
    options: dict[str, Any],
) -> tuple[Tree, float]:
    """The policies' parameters, [seeds, ...], and the seconds that they took."""
    began = time.perf_counter()
    if config["follower"] == "cloning":
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
        theta = jax.jit(jax.vmap(lambda rng: clone(rng, policy, expert, **CLONING)[0]))(keys)
        return jax.block_until_ready(theta), time.perf_counter() - began
    begin, turn = game(config, env)
    total = config["iterations"]
    with Checkpoints(workdir) as checkpoints, Stop() as stop:
        found = checkpoints.restore(jax.eval_shape(begin, jnp.asarray(seeds)))
        state, step = (begin(jnp.asarray(seeds)), 0) if found is None else (found[0], found[2])
        before = 0.0 if found is None else found[1]["seconds"]
        if step >= total:
            return state.theta["policy"], before
        with (
            Record(workdir, tensorboard=False, resume_step=step) as record,
            Progress(total, label=workdir.name, done=step) as bar,
        ):
            while step < total:
                state, metrics = turn(state, expert)
                step += 1
                told = {name: np.asarray(value) for name, value in metrics.items()}
                check(told, seeds, step)
                by_seed = {
                    f"{name}/{seed}": value
                    for name, values in told.items()
                    for seed, value in zip(seeds, values, strict=True)
                }
                record.write(step, by_seed)
                bar.update(step, **shown(told))
                if step % options["checkpoint_every"] == 0 or step == total or stop.signal:
                    seconds = before + time.perf_counter() - began
                    record.sync()
                    checkpoints.save(step, state, {"seconds": seconds})
                if stop.signal and step < total:
                    checkpoints.wait()
                    raise Interrupted(stop.signal, f"turn {step} of {total}")
    return state.theta["policy"], before + time.perf_counter() - began


def game(config: dict[str, Any], env: Environment) -> tuple[Callable, Callable]:
    """begin(seeds) -> state; turn(state, expert) -> state, metrics: all seeds in one program."""
    policy, copies = make_policy(env), config["copies"]
    follower = FOLLOWERS[config["follower"]](env, settings(config))
    ppo = PPO(
        config["gamma"],
        config["lam"],
        config["clip"],
        config["epochs"],
        config["minibatches"],
        config["theta_lr"],
        config["entropy"],
    )
    iterate = make_iteration(
        env,
        policy,
        follower,
        ppo,
        copies=copies,
        steps=config["steps"],
        absorbing=config["absorbing"],
    )
    begin = jax.vmap(lambda seed: init_state(seed, env, policy, follower, ppo, copies))
    return begin, jax.jit(jax.vmap(iterate, (0, None)), donate_argnums=0)


def settings(config: dict[str, Any]) -> Settings:
    """The follower's."""
    return Settings(
        lr=config["phi_lr"],
        steps=config["phi_steps"],
        reward=config["reward"],
        penalty=config["penalty"],
        state_gradient=config["state_gradient"],
        unroll=config["unroll"],
        rule_lr=config["rule_lr"],
    )


def check(told: dict[str, np.ndarray], seeds: Sequence[int], step: int) -> None:
    """A number that is none ends the run; before the first episode's end there is no return."""
    for name, values in told.items():
        if name != "return" and not np.isfinite(values).all():
            seed = seeds[int(np.argmin(np.isfinite(values)))]
            raise InputError(
                f"{name} of seed {seed} is no finite number in turn {step}; "
                "try a lower --theta_lr or --phi_lr"
            )


def shown(told: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the progress bar says of a turn."""
    words = {}
    if np.isfinite(told["return"]).any():
        words["return"] = f"{np.nanmean(told['return']):.1f}"
    if "phi/accuracy" in told:
        words["accuracy of D"] = f"{100 * told['phi/accuracy'].mean():.1f} %"
    return words
