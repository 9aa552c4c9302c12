"""The end of a run: each of its checkpoints attacked on the test set, and what stood.

`summarise` makes the dict that summary.json holds, and `show_summary` the text for the user. The
spot check looks at the selected checkpoint with quick AutoAttack too: PGM alone, by which it was
selected, can select a model that masks its gradients, and a cascade that finds far more is the
sign of it.
"""

from collections.abc import Sequence
from typing import Any

import jax

from l2ljax.attacks import Attack, parse
from l2ljax.checkpoint import fingerprint
from l2ljax.evaluation.accuracy import evaluate, robust
from l2ljax.evaluation.results import accuracy_table
from l2ljax.machine import describe
from l2ljax.progress import duration
from l2ljax.runs.game import Game
from l2ljax.runs.run import Run, kinds_of

GAP = 0.08
"""Honest nets lose 2 to 6 points from PGM to AutoAttack; above 8 something may be masked."""

SPOT_CHECK = ("selection", "autoattack_quick")
"""The attack that selects, and the one it is compared with."""


def summarise(
    game: Game,
    checkpoints: Any,
    attacks: Sequence[Attack],
    *,
    eval_batch: int,
    select_check: int = 0,
    named: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The summary of a run whose last step is taken; `named` says what it was called by its user.

    `eps` of each result is the text in which the user gave the radius.
    """
    data, named = game.data, named or {}
    test, steps, checks, warnings = {}, {}, {}, []
    for which in kinds_of(game):
        run = Run(game, checkpoints, which)
        steps[which] = run.step
        if select_check and which.startswith("best"):
            checks[which] = spot_check(run, select_check, eval_batch)
        if not len(data.x_test) or not attacks:
            continue
        found = evaluate(
            run.classifier,
            data.x_test,
            data.y_test,
            eps=game.eps,
            attacks=attacks,
            batch_size=eval_batch,
            parallel=game.layout.kind,
        )
        if "eps" in named:
            found = found._replace(eps_text=str(named["eps"]))
        test[which] = found.as_json()["results"]
        warnings += [f"{which}, {line}" for line in found.warnings]
    last = Run(game, checkpoints, "last")
    return {
        "method": named.get("method"),
        "dataset": named.get("dataset", data.name),
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
        "stopped_by": last.notes["stopped_by"],
        "select_check_images": select_check,
        "select_check": checks,
        "seconds": {"train": last.notes["seconds"]},
        "theta_sha256": fingerprint((last.state.theta, last.state.theta_stats)),
        "phi_sha256": fingerprint((last.state.phi, last.state.phi_stats)),
        "made_with": describe(),
    }


def spot_check(run: Run, images: int, batch_size: int) -> dict[str, Any]:
    """The accuracy under both attacks on the first validation images."""
    data = run.game.data
    x, y = data.x_val[:images], data.y_val[:images]
    how = {"eps": run.game.eps, "batch_size": min(batch_size, len(x))}
    accuracy = {
        name: float(robust(jax.random.key(0), run.classifier, x, y, parse(name), **how).mean())
        for name in SPOT_CHECK
    }
    return {"images": len(x), **accuracy}


def show_summary(summary: dict[str, Any]) -> str:
    """The table of a finished run, and what else the user should know of it."""
    rows = [
        (which, attack, entry["eps"], entry["accuracy"], summary["test_images"])
        for which, results in summary["test"].items()
        for attack, entry in results.items()
    ]
    lines = [accuracy_table(("checkpoint", "attack", "eps", "accuracy"), rows)] if rows else []
    if not summary["val_images"]:
        lines.append("best is the last epoch: there were no validation images to select by")
    lines += [*_overfitting(summary)]
    lines += [_verdict(which, check) for which, check in summary["select_check"].items()]
    lines.append(
        f"theta sha256 {summary['theta_sha256'][:16]}  phi sha256 {summary['phi_sha256'][:16]}"
    )
    lines.append(f"{duration(summary['seconds']['train'])} of training steps")
    return "\n".join(lines)


def _overfitting(summary: dict[str, Any]) -> list[str]:
    """What the guard has seen, a line per collapse, and how the run ended."""
    lines = [
        f"catastrophic overfitting in epoch {event['epoch']}: {100 * event['robust']:.1f} % under "
        f"PGM-10 after {100 * event['peak']:.1f}, {100 * event['fgsm']:.1f} % under FGSM"
        for event in summary["overfitting"]
    ]
    if summary["rollbacks"]:
        lines.append(f"taken back {summary['rollbacks']} times")
    if summary["stopped"] and summary["stopped_by"] == "callback":
        lines.append(f"stopped by a callback after epoch {summary['stopped']}")
    elif summary["stopped"]:
        lines.append(f"stopped with the good epoch {summary['stopped']}")
    return lines


def _verdict(which: str, check: dict[str, Any]) -> str:
    """One line; a warning if the gap is too wide."""
    pgm, quick = (check[name] for name in SPOT_CHECK)
    line = (
        f"{which}: of {check['images']} validation images {100 * pgm:.1f} % stand the PGM that "
        f"selected it, <= {100 * quick:.1f} % quick AutoAttack"
    )
    if pgm - quick > GAP:
        return f"warning: {line}: {100 * (pgm - quick):.1f} points apart, it may be masked"
    return line
