"""Is this robustness real? The gradient-masking checks, each with its number and its verdict.

    s = make_subject(rng, f, x, y, eps=8/255, batch_size=250)
    for check in examine(s, siblings=[other]):
        print(check.name, check.number, check.verdict, check.why)

f maps images in [0, 1] to logits; any callable will do. `checks` and `attackers` have the checks,
`subject` the limits of all. A net can be honest and weak: low accuracy under PGM is no sign of
masking, but accuracy that falls when the attack gets another form is.
"""

from l2ljax.masking.attackers import as_attack, train_response
from l2ljax.masking.checks import CHECKS, examine
from l2ljax.masking.subject import (
    LIMITS,
    VERDICTS,
    Check,
    Limit,
    Subject,
    Surface,
    loss_surface,
    make_check,
    make_subject,
    worst,
)

__all__ = [
    "CHECKS",
    "LIMITS",
    "VERDICTS",
    "Check",
    "Limit",
    "Subject",
    "Surface",
    "as_attack",
    "examine",
    "make_check",
    "make_subject",
    "loss_surface",
    "train_response",
    "worst",
]
