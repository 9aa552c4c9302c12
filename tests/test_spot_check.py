"""The selected checkpoint's spot check: when it warns, and of what."""

import pytest

from l2ljax.runs.spot_check import ATTACKS, verdict


def check(pgm, quick):
    return {"images": 200, **dict(zip(ATTACKS, (pgm, quick), strict=True))}


@pytest.mark.parametrize("quick", [0.5, 0.45, 0.421])
def test_an_honest_gap_is_told_without_a_warning(quick):
    line = verdict("best", check(0.5, quick))
    assert line.startswith("best: of 200 validation images 50.0 %")
    assert f"<= {100 * quick:.1f} % quick AutoAttack" in line and "masked" not in line


def test_more_than_eight_points_are_a_warning():
    line = verdict("best_ema", check(0.5, 0.41))
    assert line.startswith("warning: best_ema: of 200") and "9.0 points apart" in line


def test_the_check_compares_what_selected_with_a_bound_on_autoattack():
    assert ATTACKS == ("selection", "autoattack_quick")
