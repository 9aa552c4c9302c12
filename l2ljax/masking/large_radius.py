"""At eps = 0.5 every image can be made the same grey: an attack that works leaves next to nothing.

All images may then be one and the same, so no classifier is right on more than one class of them.
"""

from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject, subject
from l2ljax.masking.verdict import Check, judge

RADIUS = 0.5
ATTACK = "pgm100_margin"


def large_radius(s: Subject) -> Check:
    """Accuracy under 100 steps on the margin at eps = 0.5."""
    wide = subject(s.rng, s.f, s.x, s.y, eps=RADIUS, batch_size=s.batch_size)
    why = f"{ATTACK} at eps = {RADIUS}; {wide.accuracy('clean'):.1f} % without an attack"
    return judge("large_radius", LIMITS["large_radius"], wide.accuracy(ATTACK), why)
