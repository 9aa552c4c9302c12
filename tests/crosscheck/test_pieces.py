"""Where chance has no part: losses, projections, schedules and single iterates."""

import importlib
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_projections import projection_l2, projection_linf
from pyautoattack.square import SquareAttack

from l2ljax.attacks.fab import least_move
from l2ljax.losses import dlr, dlr_targeted
from official import ours
from official.attacks import NORM
from official.bridge import nchw, nhwc

PROJECTION = {"linf": projection_linf, "l2": projection_l2}


def logits(ties, n=64, classes=10):
    """Random ones, or whole numbers, among which the largest, second and third are often equal."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, classes)).astype(np.float32)
    z = np.round(2 * z) if ties else z
    # Where the spread is 0 both sides divide by 1e-12, and what they get is rounding.
    z[:, 0] = np.where(z.max(1) == np.sort(z, 1)[:, -3], z.max(1) + 1, z[:, 0])
    return z, rng.integers(0, classes, n)


def value_and_gradient(loss, z):
    asked = torch.from_numpy(z).requires_grad_()
    value = loss(asked)
    (u,) = torch.autograd.grad(value.sum(), asked)
    return value.detach().numpy(), u.numpy()


def compare_gradients(z, mine, official):
    """Which of equal logits gets the gradient is the sort's choice: only their sum is defined."""
    same = (z[:, :, None] == z[:, None, :]).astype(np.float32)
    together = [np.einsum("nkl,nl->nk", same, u) for u in (mine, official)]
    np.testing.assert_allclose(*together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_the_dlr_loss_is_the_official_one(ties):
    z, y = logits(ties)
    official = APGDAttack(None, eps=0.1)
    value, u = value_and_gradient(lambda a: official.dlr_loss(a, torch.from_numpy(y)), z)
    np.testing.assert_allclose(dlr(z, jnp.asarray(y)), value, rtol=1e-5, atol=1e-6)
    mine = np.asarray(jax.grad(lambda z: dlr(z, jnp.asarray(y)).sum())(jnp.asarray(z)))
    compare_gradients(z, mine, u)


@pytest.mark.parametrize("ties", [False, True])
def test_the_targeted_dlr_loss_is_the_official_one(ties):
    z, y = logits(ties)
    t = (y + 1 + np.arange(len(y)) % 9) % 10
    official = APGDAttack_targeted(None, eps=0.1)
    official.y_target = torch.from_numpy(t)
    value, u = value_and_gradient(lambda a: official.dlr_loss_targeted(a, torch.from_numpy(y)), z)
    labels = jnp.asarray(y), jnp.asarray(t)
    np.testing.assert_allclose(dlr_targeted(z, *labels), value, rtol=1e-5, atol=1e-6)
    mine = np.asarray(jax.grad(lambda z: dlr_targeted(z, *labels).sum())(jnp.asarray(z)))
    compare_gradients(z, mine, u)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fabs_projection_is_the_official_one_on_random_hyperplanes(norm):
    rng = np.random.default_rng(1)
    t = rng.uniform(size=(200, 64)).astype(np.float32)
    t[:, :8] = np.round(t[:, :8])  # pixels on the box
    w = rng.normal(size=t.shape).astype(np.float32)
    w[:, 8:12] = 0
    gap = rng.normal(scale=np.repeat([0.1, 1, 5, 50], 50)).astype(np.float32)
    b = gap + (w.astype(np.float64) * t).sum(1).astype(np.float32)
    official = PROJECTION[norm](*(torch.from_numpy(a.copy()) for a in (t, w, b))).numpy()
    move = np.asarray(least_move(t, w, jnp.asarray(gap), norm))
    # b is rounded on its way into theirs, by up to its own last digit over |w|.
    np.testing.assert_allclose(move, official, atol=1e-5)


def test_squares_windows_are_the_official_ones():
    module = importlib.import_module("l2ljax.attacks.square")
    official = SquareAttack(None, p_init=0.8, eps=0.1, resc_schedule=False)
    steps = [0, *(i + d for i in module.HALVINGS for d in (-1, 0, 1, 2)), 9999]
    for i in steps:
        share = module.P_INIT / 2 ** int(module.halvings(i))
        assert share == pytest.approx(official.p_selection(i)), i


class Watched(torch.nn.Module):
    """Keeps every batch that is asked with its gradient."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        if x.requires_grad:
            self.seen.append(nhwc(x))
        return self.model(x)


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.5)])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_visits_the_official_iterates_until_floats_tie(digits, monkeypatch, norm, eps, loss):
    """The same points mean the same steps, the same halvings and the same returns to the best."""
    steps, n = 60, 48
    stands = np.flatnonzero(ours.right(digits.f, digits.x, digits.y))[:n]
    x, y = digits.x[stands], digits.y[stands]
    start = ours.starts(0, 1, x, eps, norm)[0]
    watched = Watched(digits.models["bridge"])
    official = APGDAttack(watched, n_iter=steps, norm=NORM[norm], eps=eps, loss=loss, device="cpu")
    official.logger = logging.getLogger("auto-attack")
    official.orig_dim, official.ndims = list(x.shape[1:]), 3
    official.attack_single_run(nchw(x), torch.from_numpy(np.int64(y)), x_init=nchw(x + start))

    module = importlib.import_module("l2ljax.attacks.pgd")
    step, mine = module._step, []

    def record(i, state, *args, **static):
        # A state that was sent back to its best is not an iterate; the next one's `before` is.
        after = step(i, state, *args, **static)
        mine.append((np.asarray(after.delta), np.asarray(after.step_size)))
        return after

    monkeypatch.setattr(module, "_step", record)
    monkeypatch.setattr(module, "_settled", lambda s: jnp.array(False))
    module.apgd(
        jax.random.key(0), digits.f, x, y, eps=eps, steps=steps, loss=loss, norm=norm, start=start
    )
    assert len(watched.seen) == len(mine) == steps + 1
    stood, halved = np.ones(n, bool), np.zeros(n, bool)
    apart = np.zeros((steps + 1, n))
    for i, (theirs, (delta, size)) in enumerate(zip(watched.seen, mine, strict=True)):
        back = size.reshape(n) < (mine[i - 1][1].reshape(n) if i else 2 * eps)
        difference = np.abs(theirs - x - delta).reshape(n, -1).max(1)
        apart[i] = np.where(stood & ~back, difference, 0.0)
        halved |= back & stood
        # Beyond the fall DLR may be flat: it is 1 where the label is third, and u is rounding.
        stood &= ours.right(digits.f, theirs, y)
    assert halved.any(), "no step was halved: the test saw too little"
    assert apart[:15].max() < 1e-4
    assert (apart.max(0) < 1e-4).mean() >= 0.9
