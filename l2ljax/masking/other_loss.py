"""Does a loss that ignores the logits' scale, margin or DLR, find what cross-entropy missed?"""

from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge

CROSS_ENTROPY = "pgm100"
OTHERS = ("pgm100_margin", "pgm100_dlr", "apgd-t")


def other_loss(s: Subject) -> Check:
    """Accuracy under PGM-100 on cross-entropy minus the lowest under a margin or DLR attack."""
    own = s.accuracy(CROSS_ENTROPY)
    others = {name: s.accuracy(name) for name in OTHERS}
    best = min(others, key=others.__getitem__)
    why = f"{CROSS_ENTROPY} {own:.1f} %, {best} {others[best]:.1f} %"
    return judge("other_loss", LIMITS["other_loss"], own - others[best], why)
