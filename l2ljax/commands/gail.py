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

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from l2ljax import imitation
from l2ljax.commands.flags import figures_or_none, run_main
from l2ljax.errors import InputError
from l2ljax.imitation import comparison, demonstrations
from l2ljax.machine import describe, prepare
from l2ljax.runs import config as configuration
from l2ljax.runs.config import write_json
from l2ljax.settings import Setting, defaults
from l2ljax.terminal import Interrupted, align, markdown

HERE = [
    Setting("make_expert", bool, "make the task's demonstrations instead of a run", False),
    Setting("expert_seed", int, "with --make_expert: its first seed", 0, ">= 0"),
    Setting(
        "compare", bool, "cells of --environment x --follower x --trajectories side by side", False
    ),
    Setting("out", str, "with --compare: path of the report without its ending; WORKDIR/table"),
    Setting("plots", bool, "with --compare: draw the curves (extra: plots)", True),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]

LISTS = {"environment": "environments", "follower": "followers", "trajectories": "trajectories"}
"""The flags that are lists with --compare, and the comparison's name for each."""

FLAGS = [
    *(
        s._replace(kind=str, default=s.default and str(s.default), bounds="")
        if s.name in LISTS
        else s
        for s in imitation.SETTINGS
    ),
    *imitation.RUN,
    *comparison.COMPARISON,
    *HERE,
]


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("gail.py", __doc__, FLAGS, start, argv)


def start(given: dict[str, Any]) -> int:
    """An expert, a run, or many runs side by side."""
    options = defaults(FLAGS) | given
    settings = arguments(given)
    prepare(options["compilation_cache"])
    try:
        if options["compare"]:
            _compare(settings, options, given)
        elif options["make_expert"]:
            _make_expert(imitation.resolve(settings)["environment"], options)
        else:
            _imitate(imitation.resolve(settings), options)
    except Interrupted as stop:
        print(f"{stop}; the same command resumes it", file=sys.stderr)
        return stop.exit_code
    return 0


def arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The settings among the flags: for `imitate`, or for `compare` where that is asked for."""
    settings = {s.name: given[s.name] for s in imitation.SETTINGS if s.name in given}
    if given.get("compare"):
        settings = {
            LISTS.get(name, name): value.split(",") if name in LISTS else value
            for name, value in settings.items()
        }
        if "trajectories" in settings:
            settings["trajectories"] = [_whole(text) for text in settings["trajectories"]]
    elif "trajectories" in settings:
        settings["trajectories"] = _whole(settings["trajectories"])
    return settings


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise InputError(f"--trajectories={text} must be positive")
    return int(text)


def _make_expert(task: str, options: dict[str, Any]) -> None:
    path = options["demonstrations"] or demonstrations.default_path(task)
    found = imitation.make_expert(task, path, seed=options["expert_seed"], progress=True)
    shown = ", ".join(f"{total:.1f}" for total in found.returns)
    print(f"{len(found.returns)} trajectories of {task}, returns {shown}; usual is about")
    print(f"{imitation.TASKS[task].expert:g}. Written to {path}")


def _run_options(options: dict[str, Any]) -> dict[str, Any]:
    names = (s.name for s in imitation.RUN if s.name != "workdir")
    return {name: options[name] for name in names} | {"progress": True}


def _imitate(config: dict[str, Any], options: dict[str, Any]) -> None:
    which = f"{config['environment']}-{config['follower']}-{config['trajectories']}"
    workdir = options["workdir"] or f"runs/imitation/{which}"
    run = imitation.imitate(**config, **_run_options(options), workdir=workdir)
    shown = " ".join(f"{total:.1f}" for total in run.summary["returns"])
    print(f"{config['follower']} on {config['environment']}: mean returns of", end=" ")
    print(f"{options['episodes']} episodes")
    print(f"by seed {shown}; the expert's {run.expert:.1f}. Written to {workdir}")


def _compare(settings: dict[str, Any], options: dict[str, Any], given: dict[str, Any]) -> None:
    figures = figures_or_none() if options["plots"] else None
    workdir = options["workdir"] or "runs/imitation"

    def tell(line: str) -> None:
        print(line, flush=True)
        jax.clear_caches()  # a cell's programs are its own, and a process may map only so many

    found = comparison.compare(
        **settings,
        **{s.name: options[s.name] for s in comparison.COMPARISON},
        workdir=workdir,
        run=_run_options(options),
        tell=tell,
    )
    shown = {k: v for k, v in given.items() if k not in ("demonstrations", "workdir")}
    report = {
        "command": f"python experiments/gail.py {configuration.show(shown)}",
        "rows": found.rows,
        "tuning": found.tuning,
        "made_with": describe(),
    }
    out = pathlib.Path(options["out"] or f"{workdir}/table")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out.with_suffix(".json"), report)
    out.with_suffix(".md").write_text(page(report))
    print(align(comparison.table(found.rows)))
    print(f"written to {out}.md and {out}.json")
    if figures is not None:
        steps = found.rows[0]["config"]["copies"] * found.rows[0]["config"]["steps"]
        figures.draw_imitation(out.with_suffix(".png"), found.cells, steps)
        figures.draw_accuracies(out.with_name(f"{out.name}_accuracy.png"), found.cells, steps)
        print(f"drawn to {out}.png and {out}_accuracy.png")


def page(report: dict[str, Any]) -> str:
    """OUT.md."""
    made, rows, tuning = report["made_with"], report["rows"], report["tuning"]
    experts = {r["config"]["environment"]: r["expert"] for r in rows}
    shown = ", ".join(f"{name} {value:.1f}" for name, value in experts.items())
    chosen = [["task", "follower", "settings", "areas of the trials"]]
    for task, of in tuning.items():
        for follower, found in of.items():
            flags = " ".join(f"--{name}={value}" for name, value in found["flags"].items())
            areas = ", ".join(f"{trial['area']:.3f}" for trial in found["trials"])
            chosen.append([task, f"`{follower}`", flags or "the recipe's", areas])
    trials = {len(found["trials"]) for of in tuning.values() for found in of.values()}
    budget = (
        f"Every learned follower has the best of {min(trials)} trials, drawn alike, on other seeds."
        if trials
        else "No follower was tuned: all have the recipe's settings."
    )
    further = {
        "Minus `gail` on the same task": comparison.gaps(rows),
        "What tuning chose, and the area of every trial": chosen,
    }
    return (
        "This is our own design (docs/imitation.md), not the paper's experiment.\n\n"
        f"Measured here: `{report['command']}`\n\n"
        f"{made['device']}, {made['cores']} cores, jax {made['jax']}, commit {made['commit']}. "
        f"The experts' returns: {shown}. {budget} Brackets: 95 % of bootstraps over seeds. "
        "area: the curve's mean, 0 a policy without training and 1 the expert; a collapse: a fall "
        "below half of the best after 0.9 was reached; of the expert: the final return on that "
        f"scale.\n\n{markdown(comparison.table(rows))}\n"
        + "".join(f"\n{t}:\n\n{markdown(m)}\n" for t, m in further.items() if len(m) > 1)
    )
