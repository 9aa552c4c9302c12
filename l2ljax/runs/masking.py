"""Is a run's robustness real? Its masking checks as a table, its loss surface as a picture.

`evaluate.py --masking_report` calls this; `l2ljax.masking` has the checks and their limits.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from l2ljax.runs.game import method_of
from l2ljax.attacks.autoattack import OFFICIAL, Budget
from l2ljax.data import Dataset
from l2ljax.masking import (
    Check,
    Subject,
    as_attack,
    combine,
    examine,
    respond,
    subject,
    surface,
)
from l2ljax.methods import METHODS
from l2ljax.types import State
from l2ljax.errors import InputError
from l2ljax.commands.pictures import figures_or_none
from l2ljax.tables import align
from l2ljax.runs.saved import Saved, open_run, restore

RATE, BATCH = 1e-3, 64
"""Adam's rate and the batch of the attacker that is trained anew, whatever the run's own were."""

REACH, POINTS, SHOWN = 2.0, 41, 5
"""Of the picture: how many eps it reaches, places along an axis, images."""


def masking_report(
    saved: Saved,
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float,
    batch_size: int,
    seed: int,
    response_epochs: int,
    siblings: Sequence[str] = (),
    data_dir: str | None = None,
    budget: Budget = OFFICIAL,
    known: Mapping[str, np.ndarray] | None = None,
    picture: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Make every check that can be made, print the table, draw; what it returns is for the JSON.

    siblings: workdirs of other runs on the same data set; known: what stood after attacks that
    were made before, by name.
    """
    f = saved.game.frozen(saved.theta, saved.theta_stats)
    others = [_sibling(name, saved.data, data_dir) for name in siblings]
    rng = jax.random.key(seed)
    s = subject(rng, f, x, y, eps=eps, batch_size=batch_size, budget=budget, known=known)
    row, own = METHODS[saved.config["method"]], {}
    if row.learns and not row.paired:
        own = attackers(saved.config, saved.state, s, epochs=response_epochs)
    checks = examine(s, siblings=others, **own, on_check=_say)
    missing = {} if siblings else {"transfer": "no sibling was named"}
    if not own:
        trains = "trains no attacker" if not row.learns else "attacks images in pairs"
        reason = f"{saved.config['method']} {trains}"
        missing |= dict.fromkeys(("own_attacker", "best_response"), reason)
    verdict = combine(checks)
    print(show_checks(checks, missing))
    return {
        "verdict": verdict,
        "checks": [_record(check) for check in checks],
        "not_made": missing,
        "siblings": list(siblings),
        "picture": picture and _draw(picture, s, saved),
    }


def _record(check: Check) -> dict[str, Any]:
    """JSON knows no NaN."""
    return {k: None if v != v else v for k, v in check._asdict().items()}


def _say(check: Check) -> None:
    print(f"masking: {check.name}: {check.verdict}; {check.why}", file=sys.stderr, flush=True)


def _sibling(name: str, data: Dataset, data_dir: str | None):
    config, theirs, game = open_run(pathlib.Path(name), data_dir)
    if theirs.x_test.shape[1:] != data.x_test.shape[1:] or theirs.num_classes != data.num_classes:
        raise InputError(f"sibling {name} is of another data set ({theirs.name})")
    other = restore(pathlib.Path(name), "best", config, theirs, game)
    return game.frozen(other.theta, other.theta_stats)


def show_checks(checks: Sequence[Check], missing: Mapping[str, str]) -> str:
    """A line per check: its number and the limit it is held against, and the verdict of all."""
    header = ["check", "number", "limit", "verdict", "what was seen"]
    lines = [header]
    for check in checks:
        number, limit = (f"{value:.3g}" for value in (check.number, check.threshold))
        lines.append(
            [check.name, number, f"{limit} {check.unit}".strip(), check.verdict, check.why]
        )
    lines += [[name, "", "", "not made", why] for name, why in missing.items()]
    return f"{align(lines)}\nverdict: {combine(checks)}"


def attackers(config: dict[str, Any], state: State, s: Subject, *, epochs: int) -> dict[str, Any]:
    """The run's phi as an attack, and the same phi trained on against the classifier as it is.

    It trains on the images that are then attacked, and sees each gradient scaled by its image.
    """
    scaled = "per_example_max" if config["grad_norm"] == "batch_max" else config["grad_norm"]
    solver = method_of(config | {"grad_norm": scaled, "bf16": False}, s.x.shape[-1]).solver
    given = {
        "solver": solver,
        "phi": state.phi,
        "phi_stats": state.phi_stats,
        "loss": config["attack_loss"] or "ce",
    }
    play = {"tx": optax.adam(RATE), "eps": s.eps, "epochs": epochs, "batch_size": BATCH}
    return {
        "attacker": as_attack(**given),
        "response": respond(s.rng, s.f, s.x, s.y, **given, **play),
    }


def _draw(path: pathlib.Path, s: Subject, saved: Saved) -> str | None:
    figures = figures_or_none()
    if figures is None:
        return None
    few = s._replace(x=s.x[:SHOWN], y=s.y[:SHOWN])
    config = saved.config
    title = f"The loss around test images: {config['method']} on {config['dataset']}"
    names = [saved.data.class_names[int(label)] for label in few.y]
    planes = {"": surface(few, reach=REACH, points=POINTS)}
    print(f"drew {figures.draw_surfaces(path, planes, title, eps=s.eps, names=names)}")
    return str(path)
