"""Imitate an expert: a policy and a learned follower play, on a control task of gymnax.

    python experiments/gail.py --make_expert --environment=CartPole-v1
    python experiments/gail.py --environment=CartPole-v1 --follower=l2l_gail --trajectories=1

All seeds of a command are one program. The same command again resumes an interrupted run. Writes
to runs/imitation/ENVIRONMENT-FOLLOWER-TRAJECTORIES: config.json, metrics.jsonl (a value a seed),
summary.json and checkpoints/. `--follower=cloning` is behaviour cloning, which plays no game;
`constant_reward` is the control that looks at nothing. What of this is the paper's and what is our
own design: docs/imitation.md.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from options import Flag, UsageError, defaults, fraction, run_main

DECIDES = [
    Flag("environment", str, "CartPole-v1, Acrobot-v1, MountainCarContinuous-v0, Pendulum-v1"),
    Flag("follower", str, "gail, gail_gp, l2l_gail, airl_like, l2l_gail_opt, or a control", "gail"),
    Flag("trajectories", int, "of the expert's, the first so many", 1),
    Flag("seeds", str, "seeds of the runs, all in one program", "0,1,2,3,4,5,6,7,8,9"),
    Flag("iterations", int, "turns of the game", 150),
    Flag("copies", int, "copies of the task", 16),
    Flag("steps", int, "steps of each copy in a turn", 128),
    Flag("theta_lr", float, "the policy's rate (Adam)", 3e-4),
    Flag("epochs", int, "PPO's passes over a turn's steps", 4),
    Flag("minibatches", int, "in each of these passes", 4),
    Flag("entropy", float, "weight of the policy's entropy", 0.0),
    Flag("clip", float, "PPO's bound on the ratio", 0.2),
    Flag("gamma", float, "discount", 0.99),
    Flag("lam", float, "of the advantages", 0.95),
    Flag(
        "phi_lr", float, "the follower's rate (Adam); of l2l_gail_opt the rule's largest step", 1e-3
    ),
    Flag("phi_steps", int, "the follower's steps in a turn", 1),
    Flag("reward", ("airl", "gail", "negative"), "log(1-D) - log D | -log D | log(1-D)", "airl"),
    Flag("absorbing", bool, "pay for the state after an end as D judges it", True),
    Flag("penalty", float, "gail_gp: weight of the gradient penalty", 10.0),
    Flag("state_gradient", bool, "l2l_gail: D sees the gradient of log pi by the state too", False),
    Flag("unroll", int, "l2l_gail_opt: steps of the rule in a turn", 3),
    Flag("rule_lr", float, "l2l_gail_opt: the rule's own rate (Adam)", 1e-3),
]

RUN = [
    Flag("make_expert", bool, "make the task's demonstrations instead of a run", False),
    Flag("expert_seed", int, "with --make_expert: its first seed", 0),
    Flag("demonstrations", str, "the expert's npz; the user's cache folder has one for each task"),
    Flag("workdir", str, "where the run is written"),
    Flag("episodes", int, "of the final evaluation, a seed", 50),
    Flag("checkpoint_every", int, "turns between checkpoints", 25),
    Flag("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]

FLAGS = [*DECIDES, *RUN]


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("gail.py", __doc__, FLAGS, start, argv)


def start(given: dict[str, Any]) -> int:
    """An expert, or a run."""
    config = resolve(given)
    options = defaults(RUN) | {k: v for k, v in given.items() if k in defaults(RUN)}
    for name in ("episodes", "checkpoint_every"):
        if options[name] <= 0:
            raise UsageError(f"--{name}={options[name]} must be positive")
    from l2ljax.imitation import ImitationError, make_environment
    from runtime import prepare

    prepare(options["compilation_cache"])
    try:
        return _start(config, options, make_environment(config["environment"]))
    except ImitationError as error:
        raise UsageError(str(error)) from None


def _start(config: dict[str, Any], options: dict[str, Any], env: Any) -> int:
    import expert
    from imitating import imitate
    from l2ljax.imitation import expert_pairs, first
    from signals import Interrupted

    path = pathlib.Path(options["demonstrations"] or expert.default_path(env.name))
    if options["make_expert"]:
        found = expert.make_expert(env, path, options["expert_seed"])
        shown = ", ".join(f"{total:.1f}" for total in found.returns)
        print(f"{len(found.returns)} trajectories of {env.name}, returns {shown}; usual is about")
        print(f"{env.task.expert:g}. Written to {path}")
        return 0
    found = first(expert.read(path, env), config["trajectories"])
    workdir = pathlib.Path(options["workdir"] or default_workdir(config))
    try:
        summary = imitate(config, seeds_of(config), env, expert_pairs(env, found), workdir, options)
    except Interrupted as stop:
        print(f"{stop}; the same command resumes it", file=sys.stderr)
        return stop.exit_code
    shown = " ".join(f"{total:.1f}" for total in summary["returns"])
    print(f"{config['follower']} on {env.name}: mean returns of {options['episodes']} episodes")
    print(f"by seed {shown}; the expert's {found.returns.mean():.1f}. Written to {workdir}")
    return 0


def resolve(given: dict[str, Any]) -> dict[str, Any]:
    """Every deciding flag, checked."""
    from l2ljax.imitation import FOLLOWERS
    from l2ljax.imitation.environments import TASKS
    from l2ljax.names import nearest

    config = defaults(DECIDES) | {k: v for k, v in given.items() if k in defaults(DECIDES)}
    if config["environment"] is None:
        raise UsageError(f"give --environment, one of {', '.join(TASKS)}")
    if config["environment"] not in TASKS:
        raise UsageError(nearest("environment", config["environment"], TASKS))
    if config["follower"] not in (known := [*FOLLOWERS, "cloning"]):
        raise UsageError(nearest("follower", config["follower"], known))
    positive = "iterations copies steps theta_lr epochs minibatches phi_lr phi_steps unroll rule_lr"
    for name in positive.split():
        if config[name] <= 0:
            raise UsageError(f"--{name}={config[name]} must be positive")
    for name in ("entropy", "penalty"):
        if config[name] < 0:
            raise UsageError(f"--{name}={config[name]} must not be negative")
    for name in ("gamma", "lam", "clip"):
        if not 0 < fraction(config[name]) < 1:
            raise UsageError(f"--{name}={config[name]} must lie between 0 and 1")
    if config["trajectories"] <= 0:
        raise UsageError(f"--trajectories={config['trajectories']} must be positive")
    if config["copies"] * config["steps"] % config["minibatches"]:
        raise UsageError(
            f"--minibatches={config['minibatches']} does not divide the "
            f"{config['copies'] * config['steps']} steps of a turn"
        )
    seeds_of(config)
    return config


def seeds_of(config: dict[str, Any]) -> list[int]:
    """The seeds, as numbers."""
    from train import seeds_of as numbers

    return numbers(config["seeds"])


def default_workdir(config: dict[str, Any]) -> str:
    """runs/imitation/ENVIRONMENT-FOLLOWER-TRAJECTORIES."""
    return f"runs/imitation/{config['environment']}-{config['follower']}-{config['trajectories']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
