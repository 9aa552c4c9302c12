"""Does PGM with many more steps find what PGM-10 missed? Then its gradients led it nowhere."""

from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge

FEW, MANY = "pgm10", "pgm1000"


def more_steps(s: Subject) -> Check:
    """Accuracy under PGM-10 minus that under PGM-1000, both from zero."""
    few, many = s.accuracy(FEW), s.accuracy(MANY)
    why = f"{FEW} {few:.1f} %, {MANY} {many:.1f} %"
    return judge("more_steps", LIMITS["more_steps"], few - many, why)
