"""Is a run's robustness real? Its masking checks as a table, and its loss surface.

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

from l2ljax.attacks.autoattack import OFFICIAL, Budget
from l2ljax.errors import InputError
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
from l2ljax.runs.run import Run, load_run
from l2ljax.tables import align

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
