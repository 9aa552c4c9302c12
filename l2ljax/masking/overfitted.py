"""Is the net right exactly where the single step of its training ended, and wrong before it?

That is catastrophic overfitting (Kim et al. 2021, arXiv 2010.01799): FGSM's image is classified
rightly, and so is the image itself, but not what lies between. A large difference between FGSM and
PGM-10 alone proves nothing: an honest net has it at a radius beyond the one it was trained for.
"""

import jax
import jax.numpy as jnp

from l2ljax.ball import box
from l2ljax.losses import cross_entropy, margin
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge

POINTS = 16
"""Where the way from the image to its FGSM image is looked at."""


@jax.jit
def _on_the_way(f, x, y, eps):
    u = jax.grad(lambda x: cross_entropy(f(x), y).sum())(x)
    steps = jnp.linspace(0.0, 1.0, POINTS + 1)
    values = jax.lax.map(lambda a: margin(f(x + box(x, a * eps * jnp.sign(u))), y), steps)
    ends = (values[0] < 0) & (values[-1] < 0)
    return jnp.stack([ends, ends & (values > 0).any(0)], axis=-1)


def overfitted(s: Subject) -> Check:
    """Of the images that FGSM leaves standing, the share that falls on a shorter step its way."""
    ends, between = s.each(_on_the_way, s.eps).T
    n, fell = int(ends.sum()), int(between.sum())
    why = f"{fell} of the {n} images that stand after FGSM fall on the way there"
    return judge("overfitted", LIMITS["overfitted"], 100 * fell / max(n, 1), why, fell)
