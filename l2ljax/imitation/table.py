"""Followers side by side: tune each with the same budget, run every cell, measure, write, draw.

A cell is a follower on a task with so many trajectories: one run of gail.py with all seeds, in a
folder of its own, so that a finished one is not run again and an interrupted one goes on. Tuning
draws settings from one space by a fixed seed, the same number for every follower, and takes the
largest area under the curve on seeds that no cell uses.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from l2ljax.imitation import expert, expert_pairs, first, make_environment, stability
from l2ljax.imitation.runs import imitate
from l2ljax.machine import describe
from l2ljax.record import read
from l2ljax.runs.workdir import write_json
from l2ljax.tables import align, markdown

TUNED_ON = "1000,1001,1002"
"""Seeds of the tuning, of which no cell has one."""

STILL = ("constant_reward", "blind", "cloning")
"""They have no follower to tune."""


OWN = {"gail_gp": ("penalty",), "l2l_gail_opt": ("unroll", "rule_lr")}
"""What one follower alone has to tune."""


def draws(follower: str, trials: int) -> list[dict[str, float]]:
    """Settings of each trial: the recipe's own, then the same for every follower, and OWN."""
    rng, own_rng = np.random.default_rng(0), np.random.default_rng(1)
    drawn: list[dict[str, float]] = [{}]
    for _ in range(1, trials):
        common = {
            "phi_lr": between(rng, 1e-4, 1e-2),
            "phi_steps": int(rng.choice([1, 2, 5, 10])),
            "theta_lr": between(rng, 10**-3.5, 10**-2.5),
        }
        own = {
            "penalty": between(own_rng, 0.1, 10.0),
            "unroll": int(own_rng.choice([1, 3, 5, 10])),
            "rule_lr": between(own_rng, 1e-4, 1e-2),
        }
        drawn.append(common | {name: own[name] for name in OWN.get(follower, ())})
    return drawn


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform, to two digits."""
    return float(f"{10 ** rng.uniform(np.log10(low), np.log10(high)):.2g}")


def run(config: dict[str, Any], workdir: pathlib.Path, options: dict[str, Any]) -> stability.Cell:
    """One cell, run to its end or read."""
    from l2ljax.commands.gail import seeds_of

    env = make_environment(config["environment"])
    path = pathlib.Path(options["demonstrations"] or expert.default_path(env.name))
    found = first(expert.read(path, env), config["trajectories"])
    seeds = seeds_of(config)
    summary = imitate(config, seeds, env, expert_pairs(env, found), workdir, options)
    jax.clear_caches()  # a cell's programs are its own, and a process may map only so many
    final = np.array(summary["returns"])
    curves, accuracy = final[:, None], None  # cloning has no turns
    if (lines := workdir / "metrics.jsonl").exists():
        turns = read(lines)
        by_seed = {
            name: np.array(
                [[turn.get(f"{name}/{seed}", np.nan) for turn in turns] for seed in seeds]
            )
            for name in ("return", "phi/accuracy")
        }
        curves = by_seed["return"]
        accuracy = None if np.isnan(by_seed["phi/accuracy"]).all() else by_seed["phi/accuracy"]
    return stability.Cell(curves, final, env.task.floor, float(found.returns.mean()), accuracy)


def tune(configs: Sequence[dict[str, Any]], trials: int, options: dict[str, Any]) -> dict[str, Any]:
    """By follower and task the trials and the best one's settings; the same draws for all."""
    root, record = pathlib.Path(options["workdir"]) / "tuning", {}
    for config in configs:
        if config["follower"] in STILL:
            continue
        tried = []
        for trial, drawn in enumerate(draws(config["follower"], trials)):
            name = f"{config['environment']}-{config['follower']}-{config['trajectories']}-{trial}"
            cell = run({**config, **drawn, "seeds": TUNED_ON}, root / name, options)
            tried.append({"flags": drawn, "area": float(stability.area(cell).mean())})
            print(f"tuning {name}: area {tried[-1]['area']:.3f}, {drawn or 'the recipe'}")
        best = max(tried, key=lambda trial: trial["area"])
        record.setdefault(config["environment"], {})[config["follower"]] = {
            "flags": best["flags"],
            "trials": tried,
        }
    return record


def compare(
    configs: Sequence[dict[str, Any]], tuned: dict[str, Any], command: str, options: dict[str, Any]
) -> None:
    """Every cell with its task's tuned flags; the report, and pictures where matplotlib is."""
    rows, cells = [], {}
    for config in configs:
        task, follower = config["environment"], config["follower"]
        flags = tuned.get(task, {}).get(follower, {}).get("flags", {})
        name = f"{task}-{follower}-{config['trajectories']}"
        cell = run({**config, **flags}, pathlib.Path(options["workdir"]) / name, options)
        cells[task, config["trajectories"], follower] = cell
        rows.append({"config": {**config, **flags}, **stability.measure(cell, options["draws"])})
        print(f"{name}: final {rows[-1]['final'][0]:.1f}", flush=True)
    for row in rows:
        c = row["config"]
        own = cells[c["environment"], c["trajectories"], c["follower"]]
        plain = cells.get((c["environment"], c["trajectories"], "gail"))
        if plain is not None and own is not plain:
            row["against_gail"] = stability.against(own, plain, options["draws"])
        row["expert"] = own.expert
        row["share"] = float(stability.scaled(own.final, own).mean())
    out = pathlib.Path(options["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {"command": command, "rows": rows, "tuning": tuned, "made_with": describe()}
    write_json(out.with_suffix(".json"), report)
    out.with_suffix(".md").write_text(page(report))
    print(align(table(rows)))
    print(f"written to {out}.md and {out}.json")
    if options["plots"]:
        from l2ljax.figures.imitation import draw_accuracies, draw_curves

        turn = configs[0]["copies"] * configs[0]["steps"]
        draw_curves(out.with_suffix(".png"), cells, turn)
        draw_accuracies(out.with_name(f"{out.name}_accuracy.png"), cells, turn)
        print(f"drawn to {out}.png and {out}_accuracy.png")


SHOWN = {"final": 1, "spread": 1, "area": 3, "collapses": 2}
"""The measures in the tables, with so many places."""

HEADS = ["final return", "spread over seeds", "area", "collapses a run"]
KEY = ["task", "follower", "trajectories"]


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line per cell, each measure with its interval."""
    lines = [[*KEY, "seeds", *HEADS, "of the expert"]]
    for row in rows:
        seeds = str(len(row["config"]["seeds"].split(",")))
        shown = (interval(row.get(name), places) for name, places in SHOWN.items())
        lines.append([*where(row), seeds, *shown, f"{100 * row['share']:.0f} %"])
    return lines


def gaps(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line per follower beside gail: its measures minus gail's."""
    lines = [[*KEY, *HEADS]]
    for row in rows:
        if (gap := row.get("against_gail")) is not None:
            shown = (interval(gap.get(name), places, "+") for name, places in SHOWN.items())
            lines.append([*where(row), *shown])
    return lines


def chosen(tuning: dict[str, Any]) -> list[list[str]]:
    """A line per tuned follower: what it was given, and the area of every trial."""
    lines = [["task", "follower", "settings", "areas of the trials"]]
    for task, of in tuning.items():
        for follower, found in of.items():
            flags = " ".join(f"--{name}={value}" for name, value in found["flags"].items())
            areas = ", ".join(f"{trial['area']:.3f}" for trial in found["trials"])
            lines.append([task, f"`{follower}`", flags or "the recipe's", areas])
    return lines


def where(row: dict[str, Any]) -> tuple[str, str, str]:
    """The cell of a row."""
    c = row["config"]
    return c["environment"], f"`{c['follower']}`", str(c["trajectories"])


def interval(values: Sequence[float] | None, places: int, sign: str = "") -> str:
    """`0.912 [0.90, 0.93]`."""
    if values is None:
        return ""
    form = f"{sign}.{places}f"
    value, low, high = (format(v, form) for v in values)
    return f"{value} [{low}, {high}]"


def page(report: dict[str, Any]) -> str:
    """OUT.md."""
    made, rows, tuning = report["made_with"], report["rows"], report["tuning"]
    experts = {r["config"]["environment"]: r["expert"] for r in rows}
    shown = ", ".join(f"{name} {value:.1f}" for name, value in experts.items())
    trials = {len(t["trials"]) for of in tuning.values() for t in of.values()}
    budget = (
        f"Every learned follower has the best of {min(trials)} trials, drawn alike, on other seeds."
        if trials
        else "No follower was tuned: all have the recipe's settings."
    )
    return (
        "This is our own design (docs/imitation.md), not the paper's experiment.\n\n"
        f"Measured here: `{report['command']}`\n\n"
        f"{made['device']}, {made['cores']} cores, jax {made['jax']}, commit {made['commit']}. "
        f"The experts' returns: {shown}. {budget} Brackets: 95 % of bootstraps over seeds. "
        "area: the curve's mean, 0 a policy without training and 1 the expert; a collapse: a fall "
        "below half of the best after 0.9 was reached; of the expert: the final return on that "
        f"scale.\n\n{markdown(table(rows))}\n{_more(gaps(rows), 'Minus `gail` on the same task')}"
        f"{_more(chosen(tuning), 'What tuning chose, and the area of every trial')}"
    )


def _more(lines: list[list[str]], title: str) -> str:
    return f"\n{title}:\n\n{markdown(lines)}\n" if len(lines) > 1 else ""
