"""A run of imitation: settings in; every seed trained and evaluated; resumable in a folder.

All seeds are one program. A turn is a function of the state alone, so that the same call again
resumes an interrupted run, bit for bit. metrics.jsonl has a line a turn with one value a seed:
`return/3` is the mean return of the episodes of seed 3 that ended last.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.checkpoint import Checkpoints
from l2ljax.errors import InputError, word
from l2ljax.imitation.demonstrations import (
    Demonstrations,
    check,
    default_path,
    evaluate,
    expert_pairs,
    first_trajectories,
    make_cloning,
    read,
)
from l2ljax.imitation.followers import (
    REWARDS,
    FollowerSettings,
    Pairs,
)
from l2ljax.imitation.l2l_followers import FOLLOWERS
from l2ljax.imitation.leader import TASKS, Environment, make_environment, make_policy
from l2ljax.imitation.training import PPO, State, init_state, make_turn
from l2ljax.machine import describe
from l2ljax.record import Record
from l2ljax.record import read as read_record
from l2ljax.runs.config import lock, open_workdir, write_json
from l2ljax.settings import Setting, defaults, seeds_of
from l2ljax.terminal import Interrupted, Progress, Stop
from l2ljax.types import Array, Tree

SETTINGS = [
    Setting("environment", str, "CartPole-v1, Acrobot-v1, MountainCarContinuous-v0, Pendulum-v1"),
    Setting(
        "follower", str, "gail, gail_gp, l2l_gail, airl_like, l2l_gail_opt, or a control", "gail"
    ),
    Setting("trajectories", int, "of the expert's, the first so many", 1, "> 0"),
    Setting("seeds", str, "seeds of the runs, all in one program", "0,1,2,3,4,5,6,7,8,9"),
    Setting(
        "iterations",
        int,
        "turns of the game; this and others by task: see docs/imitation.md",
        150,
        "> 0",
    ),
    Setting("copies", int, "copies of the task", 16, "> 0"),
    Setting("steps", int, "steps of each copy in a turn", 128, "> 0"),
    Setting("theta_lr", float, "the policy's rate (Adam)", 1e-3, "> 0"),
    Setting("epochs", int, "PPO's passes over a turn's steps", 4, "> 0"),
    Setting("minibatches", int, "in each of these passes", 4, "> 0"),
    Setting("entropy", float, "weight of the policy's entropy", 0.0, ">= 0"),
    Setting("clip", float, "PPO's bound on the ratio", 0.2, "(0, 1)"),
    Setting("gamma", float, "discount of rewards per step", 0.99, "(0, 1)"),
    Setting("lam", float, "of the advantages", 0.95, "(0, 1)"),
    Setting(
        "phi_lr",
        float,
        "the follower's rate (Adam); of l2l_gail_opt the rule's largest step",
        1e-3,
        "> 0",
    ),
    Setting("phi_steps", int, "the follower's steps in a turn", 5, "> 0"),
    Setting("reward", tuple(REWARDS), "log(1-D) - log D | -log D | log(1-D)", "airl"),
    Setting("absorbing", bool, "pay for the state after an end as D judges it", True),
    Setting("penalty", float, "gail_gp: weight of the gradient penalty", 10.0, ">= 0"),
    Setting(
        "state_gradient", bool, "l2l_gail: D sees the gradient of log pi by the state too", False
    ),
    Setting("unroll", int, "l2l_gail_opt: steps of the rule in a turn", 3, "> 0"),
    Setting("rule_lr", float, "l2l_gail_opt: the rule's own rate (Adam)", 1e-3, "> 0"),
]
"""What decides the outcome of a run. Some tasks have defaults of their own (`TASKS`)."""

RUN = [
    Setting("demonstrations", str, "the expert's npz; the cache folder has one for each task"),
    Setting("workdir", str, "where the run is written"),
    Setting("episodes", int, "of the final evaluation, a seed", 50, "> 0"),
    Setting("checkpoint_every", int, "turns between checkpoints", 25, "> 0"),
]
"""What does not decide it."""


class Imitation(NamedTuple):
    """What a run leaves, for all seeds in the order of `config["seeds"]`."""

    config: dict[str, Any]
    """Every setting that decided the outcome."""
    summary: dict[str, Any]
    """What summary.json holds: `returns` and their `spread` by seed, seconds, versions, device."""
    theta: Tree
    """The policies' parameters, [seeds, ...]."""
    metrics: dict[str, np.ndarray]
    """By name [seeds, turns]; `return` is the mean return of the episodes that ended last."""
    expert: float
    """The mean return of the demonstrations that were used."""

    def act(self, i: int) -> Callable[[Array], Array]:
        """s -> a, the most likely action of the i-th seed's policy."""
        policy = make_policy(make_environment(self.config["environment"]))
        theta = jax.tree.map(lambda leaf: leaf[i], self.theta)
        return lambda s: policy.mode(theta, s)


def resolve(given: Mapping[str, Any]) -> dict[str, Any]:
    """A value for each of SETTINGS, checked: as given, else the task's own, else the default."""
    known = {setting.name: setting for setting in SETTINGS}
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        word("setting", name, known)
        if name == "seeds" and not isinstance(value, str):
            chosen[name] = value = ",".join(map(str, value))
        known[name].check(value)
    if "environment" not in chosen:
        raise InputError(f"give --environment, one of {', '.join(TASKS)}")
    word("environment", chosen["environment"], TASKS)
    config = defaults(SETTINGS) | TASKS[chosen["environment"]].recipe | chosen
    word("follower", config["follower"], [*FOLLOWERS, "cloning"])
    seeds_of(config["seeds"])
    if (steps := config["copies"] * config["steps"]) % config["minibatches"]:
        raise InputError(
            f"--minibatches={config['minibatches']} does not divide the {steps} steps of a turn"
        )
    return config


def imitate(
    *,
    seeds: str | Sequence[int] | None = None,
    demonstrations: str | pathlib.Path | Demonstrations | None = None,
    workdir: str | pathlib.Path | None = None,
    episodes: int = 50,
    checkpoint_every: int = 25,
    progress: bool = False,
    **settings: Any,
) -> Imitation:
    """Train every seed and evaluate it on `episodes` episodes; `settings` are those of SETTINGS.

    A run in a `workdir` resumes where it was, and a finished one is read. On SIGTERM or Ctrl-C it
    saves itself and raises `Interrupted`. A run without a workdir writes nothing. `progress` draws
    a bar on stderr. Without `demonstrations`, those in the user's cache folder are taken.
    """
    config = resolve({"seeds": seeds, **settings})
    for setting, value in zip(RUN[2:], (episodes, checkpoint_every), strict=True):
        setting.check(value)
    env = make_environment(config["environment"])
    if isinstance(demonstrations, Demonstrations):
        check(demonstrations, env)
    else:
        demonstrations = read(demonstrations or default_path(env.name), env)
    demonstrations = first_trajectories(demonstrations, config["trajectories"])
    pairs = expert_pairs(demonstrations)
    folder = None if workdir is None else pathlib.Path(workdir)
    with contextlib.ExitStack() as stack:
        summary = {}
        if folder is not None:
            open_workdir(folder, {"seed": "all", **config})
            stack.enter_context(lock(folder))
            if (path := folder / "summary.json").exists():
                summary = json.loads(path.read_text())
        theta, metrics, seconds = _train(config, env, pairs, folder, checkpoint_every, progress)
        if summary.get("episodes") != episodes:
            returns = evaluate(env, theta, seeds_of(config["seeds"]), episodes)
            summary = {
                "returns": [float(total) for total in returns.mean(1)],
                "spread": [float(total) for total in returns.std(1)],
                "episodes": episodes,
                "seconds": seconds,
                "made_with": describe(),
            }
            if folder is not None:
                write_json(folder / "summary.json", summary)
    return Imitation(config, summary, theta, metrics, float(demonstrations.returns.mean()))


def game_of(config: Mapping[str, Any], env: Environment) -> tuple[Callable, Callable, int]:
    """start(seeds) -> state; turn(state, expert) -> state, metrics; the number of turns.

    All seeds are one program, and every leaf of a state is [seeds, ...]. `start` is not to be
    jitted: on a CPU, the QR decompositions behind the initial weights of all networks and seeds,
    in one program, can wait for each other for ever (jax 0.10.2, two cores).
    """
    policy, turns = make_policy(env), config["iterations"]
    if config["follower"] == "cloning":
        (init, turn), turns = make_cloning(policy), 1
    else:
        follower = FOLLOWERS[config["follower"]](env, _part(FollowerSettings, config))
        ppo, copies = _part(PPO, config), config["copies"]
        same = {name: config[name] for name in ("steps", "absorbing")}
        turn = make_turn(env, policy, follower, ppo, copies=copies, **same)

        def init(seed: Array) -> State:
            return init_state(seed, env, policy, follower, ppo, copies)

    return jax.vmap(init), jax.jit(jax.vmap(turn, (0, None)), donate_argnums=0), turns


def _part(kind: Any, config: Mapping[str, Any]) -> Any:
    """PPO or FollowerSettings with what the configuration says of them."""
    return kind(**{name: config[name] for name in kind._fields if name in config})


def _train(
    config: dict[str, Any],
    env: Environment,
    expert: Pairs,
    folder: pathlib.Path | None,
    checkpoint_every: int,
    progress: bool,
) -> tuple[Tree, dict[str, np.ndarray], float]:
    """The policies' parameters, the metrics, and the seconds that they took."""
    began, seeds = time.perf_counter(), seeds_of(config["seeds"])
    start, turn, turns = game_of(config, env)
    name = folder.name if folder else f"{config['follower']} on {env.name}"
    lines, step, before, stop = [], 0, 0.0, Stop()
    with contextlib.ExitStack() as stack:
        checkpoints, found = None, None
        if folder is not None:
            checkpoints = stack.enter_context(Checkpoints(folder))
            stack.enter_context(stop)
            found = checkpoints.restore(jax.eval_shape(start, jnp.asarray(seeds)))
        if found is None:
            state = start(jnp.asarray(seeds))
        else:
            state, step, before = found[0], found[2], found[1]["seconds"]
        record = stack.enter_context(
            Record(folder if step < turns else None, tensorboard=False, resume_step=step)
        )
        bar = stack.enter_context(Progress(turns, label=name, done=step, silent=not progress))
        seconds = before
        while step < turns:
            state, metrics = turn(state, expert)
            step += 1
            told = {name: np.asarray(value) for name, value in metrics.items()}
            _check_finite(told, seeds, step)
            lines.append(
                {
                    f"{name}/{seed}": value
                    for name, values in told.items()
                    for seed, value in zip(seeds, values, strict=True)
                }
            )
            record.write(step, lines[-1])
            bar.update(step, **_shown(told))
            seconds = before + time.perf_counter() - began
            due = step % checkpoint_every == 0 or step == turns or stop.signal
            if checkpoints is not None and due:
                record.sync()
                checkpoints.save(step, state, {"seconds": seconds})
                if stop.signal and step < turns:
                    checkpoints.wait()
                    raise Interrupted(stop.signal, f"turn {step} of {turns}")
    if folder is not None:
        lines = read_record(folder / "metrics.jsonl")
    names = dict.fromkeys(name.rpartition("/")[0] for line in lines for name in line)
    metrics = {
        name: np.array([[line.get(f"{name}/{seed}", np.nan) for line in lines] for seed in seeds])
        for name in names
        if name
    }
    return state.theta["policy"], metrics, seconds


def _check_finite(told: dict[str, np.ndarray], seeds: Sequence[int], step: int) -> None:
    """An InputError for a number that is not finite; until an episode ends there is no return."""
    for name, values in told.items():
        if name != "return" and not np.isfinite(values).all():
            seed = seeds[int(np.argmin(np.isfinite(values)))]
            raise InputError(
                f"{name} of seed {seed} is no finite number in turn {step}; "
                "try a lower --theta_lr or --phi_lr"
            )


def _shown(told: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the progress bar says of a turn."""
    words = {}
    if "return" in told and np.isfinite(told["return"]).any():
        words["return"] = f"{np.nanmean(told['return']):.1f}"
    if "phi/accuracy" in told:
        words["accuracy of D"] = f"{100 * told['phi/accuracy'].mean():.1f} %"
    return words
