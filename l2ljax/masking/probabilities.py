"""Are the outputs probabilities? A second softmax, cross-entropy's own, then flattens the loss."""

import numpy as np

from l2ljax.attacks.checks import SUMS_TO_ONE
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject, outputs
from l2ljax.masking.verdict import Check, judge


def probabilities(s: Subject) -> Check:
    """The share of images whose outputs lie in [0, 1] and sum to 1."""
    z = s.each(outputs).astype(np.float64)
    alike = ((z >= 0) & (z <= 1)).all(-1) & (np.abs(z.sum(-1) - 1) < SUMS_TO_ONE)
    why = f"outputs lie in [{z.min():.3g}, {z.max():.3g}]"
    return judge("probabilities", LIMITS["probabilities"], 100 * float(alike.mean()), why)
