"""Is this robustness real? The gradient-masking checks, each with its number and its verdict.

    s = subject(rng, f, x, y, eps=8/255, batch_size=250)
    for check in examine(s, siblings=[other]):
        print(check.name, check.number, check.verdict, check.why)

f maps images in [0, 1] to logits; any callable will do. One check per file, and the limits of all
in `limits.py`. The one surprising thing: a net can be honest and weak. Low accuracy under PGM is
no sign of masking; accuracy that falls when the attack gets another form is.
"""

from l2ljax.masking.best_response import respond
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.own_attacker import as_attack
from l2ljax.masking.report import CHECKS, examine
from l2ljax.masking.subject import Subject, subject
from l2ljax.masking.surface import Surface, surface
from l2ljax.masking.verdict import VERDICTS, Check, Limit, combine, judge

__all__ = [
    "CHECKS",
    "LIMITS",
    "VERDICTS",
    "Check",
    "Limit",
    "Subject",
    "Surface",
    "as_attack",
    "combine",
    "examine",
    "judge",
    "respond",
    "subject",
    "surface",
]
