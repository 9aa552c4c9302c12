"""Catastrophic overfitting: is the robustness of this epoch a single-step illusion?

Within an epoch or two the accuracy under PGD-10 falls to nothing while that under one FGSM step
stays or rises (Wong et al. 2020). Two conditions, because an honest net of a learned attacker
stands 12 to 14 points better under FGSM than under PGD, and because a bad epoch alone is no
collapse. A third, because what never was better than a guess cannot fall: without it a run that
ended well was said to collapse in epoch 4, after one robust image of 200.
"""

from collections.abc import Mapping
from typing import Any

SHARE = 0.5
"""PGD-10 accuracy below this share of its best so far ..."""

GAP = 0.20
"""... while FGSM accuracy lies above it by more than this: then the run has overfitted."""

MOST_ROLLBACKS = 3
"""A run that collapses once more is stopped."""


def overfitted(values: Mapping[str, float], best: float, num_classes: int) -> bool:
    """Whether an epoch's validation shows it; `best` is the best val/robust of the epochs before.

    val/robust is the worst case of PGM-10 with two losses, by which epochs are selected. A guess is
    right in one case of `num_classes`.
    """
    fgsm, robust = values["val/fgsm"], values["val/robust"]
    return best > 1 / num_classes and robust < SHARE * best and fgsm - robust > GAP


def look(
    notes: dict[str, Any], values: Mapping[str, float], epoch: int, num_classes: int
) -> dict[str, float]:
    """The event, where this epoch has overfitted and the one before had not; noted for the next."""
    before, notes["collapsed"] = notes["collapsed"], overfitted(values, notes["peak"], num_classes)
    if before or not notes["collapsed"]:
        return {}
    event = {name: values[f"val/{name}"] for name in ("fgsm", "robust")}
    return event | {"epoch": epoch, "peak": notes["peak"]}


def take_back(notes: dict[str, Any], guard: str, epoch: int) -> int:
    """The number of rollbacks after this one; the run ends with that good epoch if it may no more.

    `guard` is stop or rollback, and the event stands in the notes already.
    """
    events = len(notes["overfitting"])
    if guard == "stop" or events > MOST_ROLLBACKS:
        notes |= {"stopped": epoch, "stopped_by": "overfitting"}
    return min(events, MOST_ROLLBACKS) if guard == "rollback" else 0


def warning(event: Mapping[str, float], action: str, seen: int) -> str:
    """One line: what was seen, and what --on_overfitting=`action` does the `seen`-th time."""
    does = {
        "warn": "--on_overfitting=rollback would go back to the epoch before",
        "stop": "the run ends with its last good epoch",
        "rollback": "the run goes back to its last good epoch, theta's rate halved",
    }[action]
    if action == "rollback" and seen > MOST_ROLLBACKS:
        does = f"after {MOST_ROLLBACKS} rollbacks the run ends with its last good epoch"
    return (
        f"catastrophic overfitting in epoch {event['epoch']}: validation "
        f"{100 * event['robust']:.1f} % under PGM-10 (best so far {100 * event['peak']:.1f}), "
        f"{100 * event['fgsm']:.1f} % under FGSM; {does}"
    )
