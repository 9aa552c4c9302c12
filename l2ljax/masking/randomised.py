"""Is the classifier random? Attacks that expect a function then measure their own bad luck."""

import jax.numpy as jnp

from l2ljax.attacks.checks import FORWARDS, IMAGES, variation
from l2ljax.ball import scale
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge


def randomised(s: Subject) -> Check:
    """The largest difference between the logits of 5 forward passes, rows of unit length."""
    x, y = scale(jnp.asarray(s.x[:IMAGES])), jnp.asarray(s.y[:IMAGES])
    number, right = variation(s.f, x, y)
    why = f"{FORWARDS} passes over {len(x)} images: {' or '.join(map(str, right))} right"
    return judge("randomised", LIMITS["randomised"], number, why)
