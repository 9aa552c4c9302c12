"""Is the classifier random? Attacks that expect a function then measure their own bad luck."""

import jax.numpy as jnp
import numpy as np

from l2ljax.ball import scale
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge

FORWARDS = 5
"""Of the official suite's check, which compares rows of unit length as well."""

IMAGES = 64


def randomised(s: Subject) -> Check:
    """The largest difference between the logits of 5 forward passes, rows of unit length.

    Without jit: what a Python function draws would be drawn once, while it is traced.
    """
    x = scale(jnp.asarray(s.x[:IMAGES]))
    seen = [np.asarray(s.f(x), np.float64) for _ in range(FORWARDS)]
    unit = [z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12) for z in seen]
    number = max(float(np.abs(u - unit[0]).max()) for u in unit)
    right = sorted({int((z.argmax(-1) == s.y[:IMAGES]).sum()) for z in seen})
    why = f"{FORWARDS} passes over {len(x)} images: {' or '.join(map(str, right))} right"
    return judge("randomised", LIMITS["randomised"], number, why)
