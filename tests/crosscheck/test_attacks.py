"""Attack by attack with the same chance on both sides: the same images fall."""

import numpy as np
import pytest

from official import attacks, gates, ours

N, APGD_STEPS, FAB_STEPS, TARGETS, QUERIES = 100, 40, 30, 4, 300
EPS = {"linf": 0.12, "l2": 0.5}


@pytest.fixture(scope="module")
def rightly(digits):
    rows = np.flatnonzero(ours.right(digits.f, digits.x, digits.y))[:N]
    assert len(rows) == N
    return digits.x[rows], digits.y[rows]


def played(digits, x, y, norm, attack, via):
    """x_adv of ours and of the official attack."""
    model = digits.models[via]
    settings = {"eps": EPS[norm], "norm": norm}
    if attack == "square":
        settings["queries"] = QUERIES
        official, start, draws = attacks.square(model, x, y, seed=0, **settings)
        return ours.square(digits.f, x, y, start, draws, **settings), official
    if attack == "fab-t":
        settings |= {"steps": FAB_STEPS, "targets": TARGETS}
        return ours.fab_t(digits.f, x, y, **settings), attacks.fab_t(model, x, y, **settings)
    settings["steps"] = APGD_STEPS
    starts = ours.starts(0, TARGETS, x, EPS[norm], norm)
    if attack == "apgd-ce":
        mine = ours.apgd_ce(digits.f, x, y, starts[0], **settings)
        return mine, attacks.apgd_ce(model, x, y, starts[0], **settings)
    mine = ours.apgd_t(digits.f, x, y, starts, **settings)
    return mine, attacks.apgd_t(model, x, y, starts, **settings)


@pytest.mark.parametrize("via", ["twin", "bridge"])
@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t", "fab-t", "square"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_same_images_fall(digits, rightly, norm, attack, via):
    x, y = rightly
    mine, official = played(digits, x, y, norm, attack, via)
    stands, stood = ours.right(digits.f, mine, y), ours.right(digits.f, official, y)
    assert 0 < stands.sum() < N, "eps says nothing about agreement here"
    assert gates.equal(stands, stood) >= gates.FLAGS_EQUAL
    assert gates.unlawful(x, mine, EPS[norm], norm) == 0
    fooled = digits.models["twin"](attacks.nchw(mine)).argmax(1).numpy() != y
    assert (fooled == ~stands).all()


def test_a_weaker_attack_is_found_out(digits, rightly):
    """Negative control: the gate tells 40 steps of APGD from one."""
    x, y = rightly
    start = ours.starts(0, 1, x, 0.12, "linf")[0]
    strong = attacks.apgd_ce(
        digits.models["twin"], x, y, start, eps=0.12, norm="linf", steps=APGD_STEPS
    )
    weak = ours.apgd_ce(digits.f, x, y, start, eps=0.12, norm="linf", steps=1)
    stands, stood = ours.right(digits.f, weak, y), ours.right(digits.f, strong, y)
    assert gates.equal(stands, stood) < gates.FLAGS_EQUAL


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_finds_perturbations_of_the_same_size(digits, rightly, norm):
    x, y = (part[:40] for part in rightly)
    settings = {"eps": 10.0, "norm": norm, "steps": FAB_STEPS, "targets": 1}
    mine = gates.sizes(ours.fab_t(digits.f, x, y, **settings) - x, norm)
    official = gates.sizes(attacks.fab_t(digits.models["bridge"], x, y, **settings) - x, norm)
    assert (np.abs(mine / official - 1) < 1e-3).mean() >= 0.9
    assert np.mean(mine) == pytest.approx(np.mean(official), rel=1e-3)
