"""The spot check of the selected checkpoint: when the summary of a run warns, and of what."""

from l2ljax.runs.summary import SPOT_CHECK, show_summary


def line_for(pgm, quick):
    check = {"images": 200, **dict(zip(SPOT_CHECK, (pgm, quick), strict=True))}
    nothing = {"test": {}, "val_images": 200, "overfitting": [], "rollbacks": 0, "stopped": None}
    rest = {"theta_sha256": "", "phi_sha256": "", "seconds": {"train": 1.0}}
    return show_summary(nothing | rest | {"select_check": {"best": check}}).splitlines()[0]


def test_only_a_gap_of_more_than_eight_points_is_a_warning():
    for quick in (0.5, 0.45, 0.421):
        line = line_for(0.5, quick)
        assert line.startswith("best: of 200 validation images 50.0 %") and "masked" not in line
        assert f"<= {100 * quick:.1f} % quick AutoAttack" in line
    line = line_for(0.5, 0.41)
    assert line.startswith("warning: best: of 200") and "9.0 points apart" in line


def test_the_check_compares_what_selected_with_a_bound_on_autoattack():
    assert SPOT_CHECK == ("selection", "autoattack_quick")
