"""Do an image's logits depend on the images beside it, as with BatchNorm left in batch mode?"""

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.ball import scale
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject, outputs
from l2ljax.masking.verdict import Check, judge

IMAGES = 64
ALONE = 8
"""Images of a batch, and how many of them are classified one by one as well."""


def batch_dependence(s: Subject) -> Check:
    """The largest difference of an image's logits alone, and in another order, from its batch's.

    Relative to the largest logit where that is above 1; in true float32.
    """
    x = scale(jnp.asarray(s.x[:IMAGES]))
    order = np.asarray(jax.random.permutation(jax.random.fold_in(s.rng, 1), len(x)))
    with jax.default_matmul_precision("highest"):
        together = np.asarray(outputs(s.f, x))
        shuffled = np.asarray(outputs(s.f, x[order]))
        alone = np.concatenate([np.asarray(outputs(s.f, image[None])) for image in x[:ALONE]])
    size = max(1.0, float(np.abs(together).max()))
    apart = float(np.abs(alone - together[:ALONE]).max()) / size
    moved = float(np.abs(shuffled - together[order]).max()) / size
    why = f"logits differ by {apart:.1e} alone, by {moved:.1e} in another order"
    return judge("batch_dependence", LIMITS["batch_dependence"], max(apart, moved), why)
