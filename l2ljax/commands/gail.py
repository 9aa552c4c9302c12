"""Imitate an expert: a policy and a learned follower play, on a control task of gymnax.

    python experiments/gail.py --make_expert --environment=CartPole-v1
    python experiments/gail.py --environment=CartPole-v1 --follower=l2l_gail --trajectories=1

All seeds of a command are one program. The same command again resumes an interrupted run. Writes
to runs/imitation/ENVIRONMENT-FOLLOWER-TRAJECTORIES: config.json, metrics.jsonl (a value a seed),
summary.json and checkpoints/. `--follower=cloning` is behaviour cloning, which plays no game;
`constant_reward` and `blind` are controls that look at nothing. What of this is the paper's and
what is our own design: docs/imitation.md.

    python experiments/gail.py --compare --environment=CartPole-v1,Pendulum-v1 --trajectories=1,10

compares: lists of environments, followers and trajectories make cells, each a run that resumes;
--trials=8 first tunes every learned follower with the same draws. Writes OUT.md, OUT.json and two
pictures.
"""

import importlib.util
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from l2ljax.commands.flags import run_main
from l2ljax.errors import InputError
from l2ljax.runs import settings as configuration
from l2ljax.settings import Setting, defaults, fraction

DECIDES = [
    Setting("environment", str, "CartPole-v1, Acrobot-v1, MountainCarContinuous-v0, Pendulum-v1"),
    Setting(
        "follower", str, "gail, gail_gp, l2l_gail, airl_like, l2l_gail_opt, or a control", "gail"
    ),
    Setting("trajectories", str, "of the expert's, the first so many", "1"),
    Setting("seeds", str, "seeds of the runs, all in one program", "0,1,2,3,4,5,6,7,8,9"),
    Setting(
        "iterations", int, "turns of the game; some of these by task: recipes/imitation.py", 150
    ),
    Setting("copies", int, "copies of the task", 16),
    Setting("steps", int, "steps of each copy in a turn", 128),
    Setting("theta_lr", float, "the policy's rate (Adam)", 1e-3),
    Setting("epochs", int, "PPO's passes over a turn's steps", 4),
    Setting("minibatches", int, "in each of these passes", 4),
    Setting("entropy", float, "weight of the policy's entropy", 0.0),
    Setting("clip", float, "PPO's bound on the ratio", 0.2),
    Setting("gamma", float, "discount of rewards per step", 0.99),
    Setting("lam", float, "of the advantages", 0.95),
    Setting(
        "phi_lr", float, "the follower's rate (Adam); of l2l_gail_opt the rule's largest step", 1e-3
    ),
    Setting("phi_steps", int, "the follower's steps in a turn", 5),
    Setting("reward", ("airl", "gail", "negative"), "log(1-D) - log D | -log D | log(1-D)", "airl"),
    Setting("absorbing", bool, "pay for the state after an end as D judges it", True),
    Setting("penalty", float, "gail_gp: weight of the gradient penalty", 10.0),
    Setting(
        "state_gradient", bool, "l2l_gail: D sees the gradient of log pi by the state too", False
    ),
    Setting("unroll", int, "l2l_gail_opt: steps of the rule in a turn", 3),
    Setting("rule_lr", float, "l2l_gail_opt: the rule's own rate (Adam)", 1e-3),
]

RUN = [
    Setting("make_expert", bool, "make the task's demonstrations instead of a run", False),
    Setting(
        "compare", bool, "cells of --environment x --follower x --trajectories side by side", False
    ),
    Setting("trials", int, "with --compare: settings tried for every learned follower; 0: none", 0),
    Setting("tune_trajectories", int, "with --trials: how many the trials have", 4),
    Setting("out", str, "with --compare: path of the report without its ending; WORKDIR/table"),
    Setting("draws", int, "with --compare: draws of the bootstrap", 10_000),
    Setting("plots", bool, "with --compare: draw the curves (extra: plots)", True),
    Setting("expert_seed", int, "with --make_expert: its first seed", 0),
    Setting(
        "demonstrations", str, "the expert's npz; the user's cache folder has one for each task"
    ),
    Setting("workdir", str, "where the run is written"),
    Setting("episodes", int, "of the final evaluation, a seed", 50),
    Setting("checkpoint_every", int, "turns between checkpoints", 25),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]

FLAGS = [*DECIDES, *RUN]


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("gail.py", __doc__, FLAGS, start, argv)


def start(given: dict[str, Any]) -> int:
    """An expert, a run, or many of them side by side."""
    options = defaults(RUN) | {k: v for k, v in given.items() if k in defaults(RUN)}
    configs = cells(given) if options["compare"] else [resolve(given)]
    for name in ("episodes", "checkpoint_every", "draws", "tune_trajectories"):
        if options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    if options["trials"] < 0:
        raise InputError(f"--trials={options['trials']} must not be negative")
    from l2ljax.imitation import make_environment
    from l2ljax.machine import prepare
    from l2ljax.signals import Interrupted

    prepare(options["compilation_cache"])
    try:
        if options["compare"]:
            return _compare(configs, given, options)
        return _start(configs[0], options, make_environment(configs[0]["environment"]))
    except Interrupted as stop:
        print(f"{stop}; the same command resumes it", file=sys.stderr)
        return stop.exit_code


def cells(given: dict[str, Any]) -> list[dict[str, Any]]:
    """A configuration for every environment, number of trajectories and follower."""
    from l2ljax.imitation import FOLLOWERS, TASKS

    everyone = [name for name in FOLLOWERS if name != "environment"] + ["cloning"]
    named = {
        "environment": given.get("environment") or ",".join(TASKS),
        "trajectories": given.get("trajectories") or "1,10",
        "follower": given.get("follower") or ",".join(everyone),
    }
    lists = [value.split(",") for value in named.values()]
    return [
        resolve(given | dict(zip(named, cell, strict=True))) for cell in itertools.product(*lists)
    ]


def _compare(configs: list[dict[str, Any]], given: dict[str, Any], options: dict[str, Any]) -> int:
    from l2ljax.imitation import table as imitation_table

    if options["plots"] and importlib.util.find_spec("matplotlib") is None:
        raise InputError("pictures need matplotlib: pip install 'l2ljax[plots]', or give --noplots")
    workdir = options["workdir"] or "runs/imitation"
    options = options | {"workdir": workdir, "out": options["out"] or f"{workdir}/table"}
    tried = {(c["environment"], c["follower"]): c for c in configs}
    few = [c | {"trajectories": options["tune_trajectories"]} for c in tried.values()]
    tuned = imitation_table.tune(few, options["trials"], options) if options["trials"] else {}
    shown = {k: v for k, v in given.items() if k not in ("demonstrations", "workdir")}
    command = f"python experiments/gail.py {configuration.show(shown)}"
    imitation_table.compare(configs, tuned, command, options)
    return 0


def _start(config: dict[str, Any], options: dict[str, Any], env: Any) -> int:
    from l2ljax.imitation import expert, expert_pairs, first
    from l2ljax.imitation.runs import imitate

    path = pathlib.Path(options["demonstrations"] or expert.default_path(env.name))
    if options["make_expert"]:
        found = expert.make_expert(env, path, options["expert_seed"])
        shown = ", ".join(f"{total:.1f}" for total in found.returns)
        print(f"{len(found.returns)} trajectories of {env.name}, returns {shown}; usual is about")
        print(f"{env.task.expert:g}. Written to {path}")
        return 0
    found = first(expert.read(path, env), config["trajectories"])
    workdir = pathlib.Path(options["workdir"] or default_workdir(config))
    summary = imitate(config, seeds_of(config), env, expert_pairs(env, found), workdir, options)
    shown = " ".join(f"{total:.1f}" for total in summary["returns"])
    print(f"{config['follower']} on {env.name}: mean returns of {options['episodes']} episodes")
    print(f"by seed {shown}; the expert's {found.returns.mean():.1f}. Written to {workdir}")
    return 0


def resolve(given: dict[str, Any]) -> dict[str, Any]:
    """Every deciding flag, checked: from the command line, else the task's recipe."""
    from l2ljax.errors import nearest
    from l2ljax.imitation import FOLLOWERS, TASKS
    from l2ljax.runs.recipes.imitation import TASK

    config = defaults(DECIDES) | TASK.get(given.get("environment", ""), {})
    config |= {k: v for k, v in given.items() if k in config}
    if config["environment"] is None:
        raise InputError(f"give --environment, one of {', '.join(TASKS)}")
    if config["environment"] not in TASKS:
        raise InputError(nearest("environment", config["environment"], TASKS))
    if config["follower"] not in (known := [*FOLLOWERS, "cloning"]):
        raise InputError(nearest("follower", config["follower"], known))
    positive = "iterations copies steps theta_lr epochs minibatches phi_lr phi_steps unroll rule_lr"
    for name in positive.split():
        if config[name] <= 0:
            raise InputError(f"--{name}={config[name]} must be positive")
    for name in ("entropy", "penalty"):
        if config[name] < 0:
            raise InputError(f"--{name}={config[name]} must not be negative")
    for name in ("gamma", "lam", "clip"):
        if not 0 < fraction(config[name]) < 1:
            raise InputError(f"--{name}={config[name]} must lie between 0 and 1")
    if not config["trajectories"].isdigit() or config["trajectories"] == "0":
        raise InputError(f"--trajectories={config['trajectories']} must be a positive number")
    config["trajectories"] = int(config["trajectories"])
    if config["copies"] * config["steps"] % config["minibatches"]:
        raise InputError(
            f"--minibatches={config['minibatches']} does not divide the "
            f"{config['copies'] * config['steps']} steps of a turn"
        )
    seeds_of(config)
    return config


def seeds_of(config: dict[str, Any]) -> list[int]:
    """The seeds, as numbers."""
    from l2ljax.commands.train import seeds_of as numbers

    return numbers(config["seeds"])


def default_workdir(config: dict[str, Any]) -> str:
    """runs/imitation/ENVIRONMENT-FOLLOWER-TRAJECTORIES."""
    return f"runs/imitation/{config['environment']}-{config['follower']}-{config['trajectories']}"
