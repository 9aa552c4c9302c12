"""The whole cascade, free-running and short: as strong as the official one, and lawful."""

import jax
import numpy as np
import pytest
import torch

from l2ljax.attacks.autoattack import Budget, autoattack
from official import attacks, gates

N, BUDGET, SEEDS = 64, (20, 15, 3, 100), 3
EPS = {"linf": 0.1, "l2": 0.45}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_cascades_agree_as_the_official_one_does_with_itself(digits, norm):
    x, y = digits.x[:N], digits.y[:N]
    settings = {"eps": EPS[norm], "norm": norm, "batch_size": 40}
    mine = autoattack(jax.random.key(0), digits.f, x, y, budget=Budget(*BUDGET), **settings)
    budget = attacks.Budget(*BUDGET)
    runs = [
        attacks.standard(digits.models["twin"], x, y, seed=seed, budget=budget, **settings)
        for seed in range(SEEDS)
    ]
    assert list(mine.accuracy) == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert list(runs[0].accuracy) == list(mine.accuracy)
    assert mine.accuracy["clean"] == pytest.approx(runs[0].accuracy["clean"], abs=1e-3)
    assert 0 < mine.robust.mean() < mine.accuracy["clean"]
    stood = np.stack([run.robust for run in runs])
    # One image of 64 is 1.6 %: the gates proper need the thousands of benchmarks/agreement.py.
    allowance = gates.among_themselves(stood) + 2 / N
    assert gates.from_them(mine.robust, stood) <= allowance
    assert mine.robust.mean() <= stood.mean() + 2 / N


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_adversarial_image_is_lawful_and_fools_both(digits, norm):
    x, y = digits.x[:N], digits.y[:N]
    result = autoattack(
        jax.random.key(1),
        digits.f,
        x,
        y,
        eps=EPS[norm],
        norm=norm,
        batch_size=40,
        budget=Budget(*BUDGET),
    )
    assert gates.unlawful(x, result.x_adv, EPS[norm], norm) == 0
    with torch.no_grad():
        stands = digits.models["twin"](attacks.nchw(result.x_adv)).argmax(1).numpy() == y
    assert (stands == result.robust).all()
    assert result.refused == 0
