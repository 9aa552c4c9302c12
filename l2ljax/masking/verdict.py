"""What a check says: a number, the limit it is held against, a verdict and one line.

Every number is so turned that larger is worse. Above `suspect` the model deserves a closer look;
above `masked` the check alone decides that a robust accuracy measured by gradient attacks is not
to be believed. `limits.py` has the limits and where they come from.
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


def judge(name: str, limit: Limit, number: float, why: str, images: int | None = None) -> Check:
    """The check of that number; `images` is how many it stands for, where that counts.

    The threshold is the one that was crossed, else the first. A number that is NaN is suspect.
    """
    verdict: Verdict = "suspect" if math.isnan(number) else "pass"
    if images is None or images >= limit.least:
        if number > limit.masked:
            verdict = "masked"
        elif number > limit.suspect:
            verdict = "suspect"
    threshold = limit.masked if verdict == "masked" else limit.suspect
    return Check(name, float(number), limit.unit, threshold, verdict, why, images)


def combine(checks: Iterable[Check]) -> Verdict:
    """The worst verdict of all: masked if any check that may decide alone says so."""
    worst = max((VERDICTS.index(check.verdict) for check in checks), default=0)
    return VERDICTS[worst]
