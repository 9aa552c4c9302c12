"""FGSM is PGD's first step, and its step is the ball's whole radius."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from l2ljax.attacks import fgsm, pgd
from l2ljax.ball import NORMS, size

KEY = jax.random.key(5)
X = jax.random.uniform(jax.random.key(9), (6, 4, 4, 1))
Y = jnp.arange(6) % 3
W = jax.random.normal(jax.random.key(1), (16, 3)) / 4


def logits(theta, x):
    return (x.reshape(len(x), -1) - 0.5) @ theta


F = Partial(logits, W)


def gradient(x):
    """Of the cross-entropy of a linear net: (softmax - one-hot) W^T."""
    p = np.asarray(jax.nn.softmax(F(x))) - np.eye(3)[np.asarray(Y)]
    return (p @ np.asarray(W).T).reshape(x.shape)


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_goes_the_radius_along_the_gradient(norm):
    u = gradient(X)
    if norm == "linf":
        d = np.sign(u)
    else:
        d = u / np.sqrt((u**2).sum((1, 2, 3), keepdims=True))
    expected = np.clip(np.asarray(X) + 0.1 * d, 0, 1)
    np.testing.assert_allclose(fgsm(KEY, F, X, Y, eps=0.1, norm=norm), expected, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_is_one_step_of_pgd(norm):
    step = {"steps": 1, "step_size": 0.1, "start": "zero", "loss": "ce"}
    np.testing.assert_array_equal(
        fgsm(KEY, F, X, Y, eps=0.1, norm=norm), pgd(KEY, F, X, Y, eps=0.1, norm=norm, **step)
    )


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_keeps_to_ball_and_box(norm):
    x = X.round()
    out = fgsm(KEY, F, x, Y, eps=0.3, norm=norm)
    assert 0 <= float(out.min()) and float(out.max()) <= 1
    assert 0 < float(size(out - x, norm).max()) <= 0.3 + 1e-6


def test_the_l2_step_has_its_full_length_however_small_the_gradient():
    """A confident net's gradient is 1e-25 long; its squares vanish in float32."""
    faint = Partial(logits, 1e-24 * W)
    x = 0.4 + 0.2 * X  # far from the box
    out = fgsm(KEY, faint, x, Y, eps=0.1, norm="l2")
    np.testing.assert_allclose(size(out - x, "l2"), 0.1, rtol=1e-4)
