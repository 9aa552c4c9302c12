"""Ways to look robust without being it: what a wrapper does to an honest classifier.

    f = WRAPPERS["killed_gradient"](f)

Negative controls, for the tests and for the calibration of the masking
checks. Most leave every decision as it is, so the true robust accuracy stays that of f.
"""

from collections.abc import Callable
from itertools import count

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from l2ljax.types import Apply, Array, Tree

Classifier = Callable[[Array], Array]


def _killed(f, x):
    return f(jax.lax.stop_gradient(x))


def _softmax(f, x):
    return jax.nn.softmax(f(x))


def _quantised(f, x):
    return f(jnp.round(x * LEVELS) / LEVELS)


LEVELS = 8
"""Steps of grey that the quantised input keeps; rounding has no derivative."""


def _large(f, x):
    return LARGE * f(x)


LARGE = 1e4


def _three_classes(f, x):
    return f(x)[:, :3]


def _shattered(f, x):
    logits = f(x)
    waves = jax.random.normal(jax.random.key(0), (x[0].size, logits.shape[-1]))
    return logits + HEIGHT * jnp.sin(WAVES * x.reshape(len(x), -1) @ waves)


HEIGHT, WAVES = 0.05, 500.0
"""A ripple too low to change a decision and so fast that its gradient drowns the classifier's."""


class _Noisy:
    """Logits with new noise at every call; a trace keeps what was drawn for it."""

    def __init__(self, f: Classifier, size: float) -> None:
        self.f, self.size, self.calls = f, size, count()

    def __call__(self, x: Array) -> Array:
        """Logits and the next noise."""
        logits = self.f(x)
        key = jax.random.key(next(self.calls))
        return logits + self.size * jax.random.normal(key, logits.shape)


WRAPPERS: dict[str, Callable[[Classifier], Classifier]] = {
    "killed_gradient": lambda f: Partial(_killed, f),
    "softmax_outputs": lambda f: Partial(_softmax, f),
    "noise": lambda f: _Noisy(f, 0.5),
    "quantised_input": lambda f: Partial(_quantised, f),
    "large_logits": lambda f: Partial(_large, f),
    "three_classes": lambda f: Partial(_three_classes, f),
    "shattered": lambda f: Partial(_shattered, f),
}
"""f -> f that only looks different, by what is wrong with it."""


def in_batch_mode(apply: Apply, theta: Tree, theta_stats: Tree) -> Classifier:
    """BatchNorm left in batch mode: an image's logits depend on its neighbours."""
    return Partial(lambda theta, stats, x: apply(theta, stats, x, "batch")[0], theta, theta_stats)


class WithDropout:
    """Dropout left on: a new mask at every call."""

    def __init__(self, apply: Apply, theta: Tree, theta_stats: Tree) -> None:
        self.given, self.calls = (apply, theta, theta_stats), count()

    def __call__(self, x: Array) -> Array:
        """Logits under the next mask."""
        apply, theta, stats = self.given
        return apply(theta, stats, x, "batch", rng=jax.random.key(next(self.calls)))[0]
