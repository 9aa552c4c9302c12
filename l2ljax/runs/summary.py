"""The end of a run: every checkpoint attacked on the test set, summary.json, and the pictures."""

import json
import pathlib
import sys
from typing import Any

import jax

from l2ljax.runs.game import Game
from l2ljax.attacks import Attack
from l2ljax.checkpoint import fingerprint
from l2ljax.data import Dataset
from l2ljax.evaluation.accuracy import evaluate
from l2ljax.progress import duration
from l2ljax.record import read
from l2ljax.commands.pictures import figures_or_none
from l2ljax.evaluation.tables import attack_eps, table
from l2ljax.machine import describe
from l2ljax.runs.saved import choices, restore
from l2ljax.runs.spot_check import spot_check, verdict
from l2ljax.runs.workdir import write_json


def conclude(
    workdir: pathlib.Path,
    config: dict[str, Any],
    data: Dataset,
    game: Game,
    attacks: list[Attack],
    options: dict[str, Any],
) -> None:
    """Evaluate and summarise a finished run; once is enough, a second call only prints."""
    path = workdir / "summary.json"
    names = [attack.name for attack in attacks]
    summary = json.loads(path.read_text()) if path.exists() else None
    checked = options["select_check"] in (0, (summary or {}).get("select_check_images"))
    if summary is None or summary["attacks"] != names or not checked:
        summary = _summarise(workdir, config, data, game, attacks, options)
        write_json(path, summary)
    rows = [
        (which, attack, entry["eps"], entry["accuracy"], len(data.x_test))
        for which, results in summary["test"].items()
        for attack, entry in results.items()
    ]
    print(table(("checkpoint", "attack", "eps", "accuracy"), rows))
    if not len(data.x_val):
        print("best is the last epoch: there were no validation images to select by")
    for line in overfitting(summary):
        print(line)
    for line in summary.get("warnings", []):
        print(f"warning: {line}", file=sys.stderr)
    for which, check in summary.get("select_check", {}).items():
        print(verdict(which, check))
    print(f"theta sha256 {summary['theta_sha256'][:16]}  phi sha256 {summary['phi_sha256'][:16]}")
    print(f"{duration(summary['seconds']['train'])} of training steps; written to {workdir}")
    figures = figures_or_none() if options["plots"] else None
    if figures is not None:
        for picture in figures.draw_run(workdir):
            print(f"drew {picture}")


def _summarise(workdir, config, data, game, attacks, options) -> dict[str, Any]:
    test, steps, checks, warnings = {}, {}, {}, []
    for which in choices(config):
        saved = restore(workdir, which, config, data, game)
        steps[which] = saved.step
        if options["select_check"] and which.startswith("best"):
            checks[which] = spot_check(saved, options["select_check"], options["eval_batch"])
        results = evaluate(
            jax.random.key(0),
            game.frozen(*game.layout.put_for_evaluation((saved.theta, saved.theta_stats))),
            data.x_test,
            data.y_test,
            attacks,
            eps=game.eps,
            batch_size=game.layout.round_up(min(options["eval_batch"], len(data.x_test))),
            share=game.layout.split_for_evaluation,
        )
        test[which] = {
            r.attack: {"eps": attack_eps(r.eps, game.eps, config["eps"]), "accuracy": r.accuracy}
            for r in results
        }
        warnings += [f"{which}, {r.attack}: {line}" for r in results for line in r.warnings]
    last = restore(workdir, "last", config, data, game)
    line = read(workdir / "metrics.jsonl")[-1]
    return {
        "method": config["method"],
        "dataset": config["dataset"],
        "attacks": [attack.name for attack in attacks],
        "test": test,
        "warnings": warnings,
        "test_images": len(data.x_test),
        "val_images": len(data.x_val),
        "steps": steps,
        "best": last.notes["best"],
        "overfitting": last.notes["overfitting"],
        "rollbacks": int(last.state.rollbacks),
        "stopped": last.notes["stopped"],
        "select_check_images": options["select_check"],
        "select_check": checks,
        "seconds": {"train": line["seconds/train"]},
        "theta_sha256": fingerprint((last.state.theta, last.theta_stats)),
        "phi_sha256": fingerprint((last.state.phi, last.state.phi_stats)),
        "made_with": describe(),
    }


def overfitting(summary: dict[str, Any]) -> list[str]:
    """What the guard has seen, a line per collapse, and how the run ended."""
    lines = [
        f"catastrophic overfitting in epoch {event['epoch']}: {100 * event['robust']:.1f} % under "
        f"PGM-10 after {100 * event['peak']:.1f}, {100 * event['fgsm']:.1f} % under FGSM"
        for event in summary["overfitting"]
    ]
    if summary["rollbacks"]:
        lines.append(f"taken back {summary['rollbacks']} times")
    if summary["stopped"]:
        lines.append(f"stopped with the good epoch {summary['stopped']}")
    return lines
