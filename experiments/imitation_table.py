"""Followers side by side: tune each with the same budget, run every cell, measure, write, draw.

A cell is a follower on a task with so many trajectories: one run of gail.py with all seeds, in a
folder of its own, so that a finished one is not run again and an interrupted one goes on. Tuning
draws settings from one space by a fixed seed, the same number for every follower, and takes the
largest area under the curve on seeds that no cell uses.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import expert
import stability
from imitating import imitate
from l2ljax.imitation import expert_pairs, first, make_environment
from l2ljax.record import read
from report import align, markdown
from runtime import describe
from workdir import write_json

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
    from gail import seeds_of

    env = make_environment(config["environment"])
    path = pathlib.Path(options["demonstrations"] or expert.default_path(env.name))
    found = first(expert.read(path, env), config["trajectories"])
    seeds = seeds_of(config)
    summary = imitate(config, seeds, env, expert_pairs(env, found), workdir, options)
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
        where, follower = config["environment"], config["follower"]
        flags = tuned.get(where, {}).get(follower, {}).get("flags", {})
        name = f"{where}-{follower}-{config['trajectories']}"
        cell = run({**config, **flags}, pathlib.Path(options["workdir"]) / name, options)
        cells[where, config["trajectories"], follower] = cell
        rows.append({"config": {**config, **flags}, **stability.measure(cell, options["draws"])})
        print(f"{name}: final {rows[-1]['final'][0]:.1f}", flush=True)
    for row in rows:
        c = row["config"]
        own, plain = (
            cells.get((c["environment"], c["trajectories"], f)) for f in (c["follower"], "gail")
        )
        if own is not None and plain is not None and own is not plain:
            row["against_gail"] = stability.against(own, plain, options["draws"])
        row["expert"] = own.expert if own is not None else None
    out = pathlib.Path(options["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {"command": command, "rows": rows, "tuning": tuned, "made_with": describe()}
    write_json(out.with_suffix(".json"), report)
    out.with_suffix(".md").write_text(page(report))
    print(align(table(rows)))
    print(f"written to {out}.md and {out}.json")
    if options["plots"]:
        from figures.imitation import draw_accuracies, draw_curves

        turn = configs[0]["copies"] * configs[0]["steps"]
        draw_curves(out.with_suffix(".png"), cells, turn)
        draw_accuracies(out.with_name(f"{out.name}_accuracy.png"), cells, turn)
        print(f"drawn to {out}.png and {out}_accuracy.png")


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line per cell, each measure with its interval."""
    names = "task|follower|trajectories|seeds|final return|spread over seeds|area|collapses a run"
    lines = [[*names.split("|"), "area over gail's", "spread over gail's"]]
    for row in rows:
        c = row["config"]
        shown = [interval(row[n], p) for n, p in (("final", 1), ("spread", 1), ("area", 3))]
        gaps = row.get("against_gail", {})
        over = [interval(gaps.get(n), p, "+") for n, p in (("area", 3), ("spread", 1))]
        where = c["environment"], f"`{c['follower']}`", str(c["trajectories"])
        count = interval(row["collapses"], 2)
        lines.append([*where, str(len(c["seeds"].split(","))), *shown, count, *over])
    return lines


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
        f"below half of the best after 0.9 was reached.\n\n{markdown(table(rows))}\n"
    )
