"""What a check says: a number, the limit it is held against, a verdict and one line.

Every number is so turned that larger is worse. Above `suspect` the model deserves a closer look;
above `masked` the check alone decides that a robust accuracy measured by gradient attacks is not
to be believed. `benchmarks/calibrate_masking.py` made the limits on digits; `results/masking.md`
has the rule, the nets and both error rates.
"""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

Verdict = Literal["pass", "suspect", "masked"]

VERDICTS: tuple[Verdict, ...] = ("pass", "suspect", "masked")
"""From the best to the worst."""


class Limit(NamedTuple):
    """The number is bad above `suspect` and decisive above `masked` (infinity: it never decides).

    `least` is the fewest images that the number has to stand for.
    """

    suspect: float
    masked: float
    unit: str
    least: int = 0


NEVER = float("inf")
"""For a check that is no proof by itself."""

LIMITS: dict[str, Limit] = {
    # Facts: what the official AutoAttack warns of, and what the others are with it.
    "randomised": Limit(1e-4, 1e-4, ""),
    "probabilities": Limit(0, 50, "% of images"),
    "few_classes": Limit(0, NEVER, "classes"),
    "batch_dependence": Limit(1e-4, 1e-4, ""),
    "zero_gradient": Limit(0, 5, "% of images"),
    "shattered": Limit(0.2, 0.5, ""),
    # Calibrated.
    "logit_scale": Limit(5, 5, "% of images"),
    "overfitted": Limit(1, 2, "% of images", 3),
    "one_step": Limit(0, 2, "points", 3),
    "more_steps": Limit(5, 5, "points"),
    "other_loss": Limit(8, 11, "points"),
    "large_radius": Limit(2, 2, "% of images"),
    "black_box": Limit(0.2, 3, "points", 3),
    "transfer": Limit(0, 2, "points", 3),
    # As black_box and transfer, whose questions they ask of a learned attacker.
    "own_attacker": Limit(0, 2, "points", 3),
    "best_response": Limit(0.2, 3, "points", 3),
}
"""The limits of every check."""


class Check(NamedTuple):
    """One check: its number in `unit`, the limit that its verdict turns on, and what was seen.

    `images` is how many the number stands for, where a limit asks for some.
    """

    name: str
    number: float
    unit: str
    threshold: float
    verdict: Verdict
    why: str
    images: int | None = None


def make_check(
    name: str, number: float, why: str, images: int | None = None, limit: Limit | None = None
) -> Check:
    """The check of that number, held against `limit`, or against its own in LIMITS.

    `images` is how many the number stands for, where that counts. The threshold is the one that was
    crossed, else the first. A number that is NaN is suspect.
    """
    limit = limit or LIMITS[name]
    verdict: Verdict = "suspect" if math.isnan(number) else "pass"
    if images is None or images >= limit.least:
        if number > limit.masked:
            verdict = "masked"
        elif number > limit.suspect:
            verdict = "suspect"
    threshold = limit.masked if verdict == "masked" else limit.suspect
    return Check(name, float(number), limit.unit, threshold, verdict, why, images)


def worst(checks: Iterable[Check]) -> Verdict:
    """The worst verdict of all: masked if any check that may decide alone says so."""
    return VERDICTS[max((VERDICTS.index(check.verdict) for check in checks), default=0)]
