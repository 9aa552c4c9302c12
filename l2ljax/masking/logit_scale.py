"""Are the logits so large that cross-entropy is flat where the margin is not?"""

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.losses import cross_entropy, margin
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge


@jax.jit
def _saturated(f, x, y):
    def gradient(loss):
        return jax.grad(lambda x: loss(f(x), y).sum())(x)

    axes = tuple(range(1, x.ndim))
    ce = gradient(cross_entropy)
    flat = (ce == 0).all(axes) | ~jnp.isfinite(ce).all(axes)
    logits = f(x)
    gap = -margin(logits, y)
    return jnp.stack([flat & (gradient(margin) != 0).any(axes), gap], axis=-1)


def logit_scale(s: Subject) -> Check:
    """The share of images with a gradient of the margin and none, in float32, of cross-entropy."""
    flat, gap = s.each(_saturated).T
    right = gap > 0
    typical = float(np.median(gap[right])) if right.any() else 0.0
    why = f"{int(flat.sum())} of {len(flat)} images are saturated; median margin {typical:.3g}"
    return judge("logit_scale", LIMITS["logit_scale"], 100 * float(flat.mean()), why)
