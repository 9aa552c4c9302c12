"""Are there enough classes for the attacks that AutoAttack is made of?"""

from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge

NEEDED = 4
"""Of the targeted DLR loss, which divides by z_1 - (z_3 + z_4) / 2."""


def few_classes(s: Subject) -> Check:
    """How many classes are missing to the 4 that the targeted DLR loss needs."""
    classes = s.classes()
    why = f"{classes} classes; the targeted DLR loss needs {NEEDED}, else another takes its place"
    return judge("few_classes", LIMITS["few_classes"], max(0, NEEDED - classes), why)
