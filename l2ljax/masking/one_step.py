"""Does one large step find more than ten small ones? Then the small ones were led astray."""

from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge

ONE, MANY = "fgsm", "pgm10"


def one_step(s: Subject) -> Check:
    """Accuracy under PGM-10 minus that under FGSM; an honest net has it below zero."""
    one, many = s.stood(ONE), s.stood(MANY)
    gap = many.mean() - one.mean()
    why = f"{ONE} {100 * one.mean():.1f} %, {MANY} {100 * many.mean():.1f} %"
    return judge("one_step", LIMITS["one_step"], 100 * gap, why, round(gap * len(one)))
