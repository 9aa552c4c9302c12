"""PGM and FGSM beside foolbox's, which share no code with the official AutoAttack."""

import warnings

import jax
import numpy as np
import pytest
import torch

from l2ljax.attacks import fgsm, pgd
from official import ours
from official.bridge import nchw, nhwc

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports scipy by an old name
    import foolbox

N, STEPS = 64, 10
EPS = {"linf": 0.1, "l2": 0.5}


@pytest.fixture(scope="module")
def rightly(digits):
    rows = np.flatnonzero(ours.right(digits.f, digits.x, digits.y))[:N]
    model = foolbox.PyTorchModel(digits.models["bridge"].eval(), bounds=(0, 1), device="cpu")
    return model, digits.x[rows], digits.y[rows]


def theirs(attack, model, x, y, eps):
    labels = torch.from_numpy(np.asarray(y, np.int64))
    return nhwc(attack(model, nchw(x), labels, epsilons=eps)[1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_ends_where_foolboxs_does(digits, rightly, norm):
    model, x, y = rightly
    eps = EPS[norm]
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = kind(abs_stepsize=eps / 4, steps=STEPS, random_start=False)
    official = theirs(attack, model, x, y, eps)
    settings = {"eps": eps, "steps": STEPS, "step_size": eps / 4, "norm": norm}
    mine = pgd(jax.random.key(0), digits.f, x, y, start="zero", loss="ce", **settings)
    apart = np.abs(np.asarray(mine) - official).reshape(N, -1).max(1)
    assert (apart < 1e-4).mean() >= 0.9
    stands, stood = (ours.right(digits.f, np.asarray(a), y) for a in (mine, official))
    assert 0 < stands.sum() < N and (stands == stood).all()


def test_fgsm_is_foolboxs(digits, rightly):
    model, x, y = rightly
    attack = foolbox.attacks.LinfFastGradientAttack()
    mine = np.asarray(fgsm(jax.random.key(0), digits.f, x, y, eps=0.1))
    np.testing.assert_allclose(mine, theirs(attack, model, x, y, 0.1), atol=1e-6)
