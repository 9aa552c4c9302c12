"""The end of a run: its checkpoints attacked on the test set, and its checks for masking.

`summarise` makes the dict that summary.json holds, and `show_summary` the text for the user. The
spot check looks at the selected checkpoint with quick AutoAttack too: PGM alone, by which it was
selected, can select a model that masks its gradients, and a cascade that finds far more is the
sign of it.

Whether its robustness is real is told by the masking checks as a table, and by its loss surface:

    report = masking_report(run, x, y, eps=8 / 255, batch_size=250, seed=0, response_epochs=10)
    print(report)

`evaluate.py --masking_report` calls this; `l2ljax.masking` has the checks and their limits.
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from l2ljax.attacks import Attack, parse
from l2ljax.attacks.autoattack import OFFICIAL, Budget
from l2ljax.checkpoint import fingerprint
from l2ljax.errors import InputError
from l2ljax.evaluation.accuracy import evaluate, robust
from l2ljax.evaluation.results import accuracy_table
from l2ljax.machine import describe
from l2ljax.masking import (
    Check,
    Subject,
    Surface,
    as_attack,
    examine,
    loss_surface,
    make_subject,
    train_response,
    worst,
)
from l2ljax.plugins import Plugins
from l2ljax.runs.from_config import method_of
from l2ljax.runs.game import Game
from l2ljax.runs.run import Run, kinds_of, load_run
from l2ljax.terminal import align, duration

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


RATE, BATCH = 1e-3, 64
"""Adam's rate and the batch of the attacker that is trained anew, whatever the run's own were."""

REACH, POINTS, SHOWN = 2.0, 41, 5
"""Of the loss surface: how many eps it reaches, places along an axis, images."""


class MaskingReport(NamedTuple):
    """Every check that could be made, why the others could not; prints as a table."""

    checks: tuple[Check, ...]
    not_made: dict[str, str]
    siblings: tuple[str, ...]
    subject: Subject

    def as_json(self) -> dict[str, Any]:
        """Everything as numbers, texts, lists and dicts; JSON knows no NaN."""
        return {
            "verdict": worst(self.checks),
            "checks": [
                {k: None if v != v else v for k, v in check._asdict().items()}
                for check in self.checks
            ],
            "not_made": self.not_made,
            "siblings": list(self.siblings),
        }

    def surface(self) -> Surface:
        """The loss around the first images, for a picture."""
        few = self.subject._replace(x=self.subject.x[:SHOWN], y=self.subject.y[:SHOWN])
        return loss_surface(few, reach=REACH, points=POINTS)

    def __str__(self) -> str:
        """A line per check: its number and the limit it is held against; the verdict of all."""
        lines = [["check", "number", "limit", "verdict", "what was seen"]]
        for check in self.checks:
            number, limit = (f"{value:.3g}" for value in (check.number, check.threshold))
            lines.append(
                [check.name, number, f"{limit} {check.unit}".strip(), check.verdict, check.why]
            )
        lines += [[name, "", "", "not made", why] for name, why in self.not_made.items()]
        return f"{align(lines)}\nverdict: {worst(self.checks)}"


def masking_report(
    run: Run,
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    batch_size: int,
    seed: int,
    response_epochs: int,
    siblings: Sequence[str] = (),
    plugins: Plugins | Iterable[str | pathlib.Path] = (),
    budget: Budget = OFFICIAL,
    known: Mapping[str, np.ndarray] | None = None,
    on_check: Callable[[Check], None] | None = None,
) -> MaskingReport:
    """Make every check that can be made; `on_check` is called after each.

    siblings: workdirs of other runs on the same data set; known: what stood after attacks that
    were made before, by name.
    """
    others = [_sibling(name, run, plugins) for name in siblings]
    rng = jax.random.key(seed)
    s = make_subject(
        rng, run.classifier, x, y, eps=eps, batch_size=batch_size, budget=budget, known=known
    )
    method, own = run.game.method, {}
    if method.learns and not method.paired:
        own = attackers(run, s, epochs=response_epochs)
    checks = examine(s, siblings=others, **own, on_check=on_check)
    missing = {} if siblings else {"transfer": "no sibling was named"}
    if not own:
        trains = "trains no attacker" if not method.learns else "attacks images in pairs"
        reason = f"{run.config['method']} {trains}"
        missing |= dict.fromkeys(("own_attacker", "best_response"), reason)
    return MaskingReport(tuple(checks), missing, tuple(siblings), s)


def _sibling(name: str, run: Run, plugins: Any) -> Callable:
    other = load_run(name, plugins=plugins)
    theirs, ours = other.game.data, run.game.data
    if theirs.x_train.shape[1:] != ours.x_train.shape[1:] or theirs.num_classes != ours.num_classes:
        raise InputError(f"sibling {name} is of another data set ({theirs.name})")
    return other.classifier


def attackers(run: Run, s: Subject, *, epochs: int) -> dict[str, Any]:
    """The run's phi as an attack, and the same phi trained on against the classifier as it is.

    It trains on the images that are then attacked, and sees each gradient scaled by its image.
    """
    config, state = run.config, run.state
    changed: dict[str, Any] = {"bf16": False}
    if config.get("grad_norm") == "batch_max":
        changed["grad_norm"] = "per_example_max"
    solver = method_of(config | changed, s.x.shape[-1]).solver
    given = {
        "solver": solver,
        "phi": state.phi,
        "phi_stats": state.phi_stats,
        "loss": config.get("attack_loss") or "ce",
    }
    play = {"tx": optax.adam(RATE), "eps": s.eps, "epochs": epochs, "batch_size": BATCH}
    return {
        "attacker": as_attack(**given),
        "response": train_response(s.rng, s.f, s.x, s.y, **given, **play),
    }
