"""The measures of stability, by hand."""

import numpy as np
import pytest

from l2ljax.imitation.comparison import Cell, against, area, collapses, measure, scaled

CURVES = np.array([[np.nan, 10.0, 20.0], [0.0, 0.0, 10.0]])
CELL = Cell(CURVES, np.array([20.0, 10.0]), 0.0, 20.0)


def test_zero_is_a_policy_without_training_and_one_the_expert():
    np.testing.assert_allclose(scaled(CURVES, CELL), [[0, 0.5, 1], [0, 0, 0.5]])
    np.testing.assert_allclose(area(CELL), [0.5, 1 / 6])


@pytest.mark.parametrize(
    "curve, count",
    [
        ([0.5, 0.1, 0.5], 0),  # 0.9 was never reached
        ([0.95, 0.4], 1),
        ([0.95, 0.48], 0),  # not below half of the best
        ([0.95, 0.4, 0.1, 0.5], 1),
        ([0.95, 0.4, 0.92, 0.3], 2),
        ([1.2, 0.55], 1),  # of the best, not of the expert
    ],
)
def test_a_collapse_is_a_fall_below_half_of_the_best_once_it_was_good(curve, count):
    assert collapses(np.array(curve)) == count


def test_measures_come_with_intervals_over_seeds():
    found = measure(CELL, 2000)
    assert found["final"] == pytest.approx([15.0, 10.0, 20.0])
    assert found["spread"][0] == 5.0 and found["spread"][1] == 0.0
    same = against(CELL, CELL, 2000)
    for value, low, high in same.values():
        assert value == 0 and low <= 0 <= high
    better = CELL._replace(final=CELL.final + 100)
    assert against(better, CELL, 2000)["final"][1] > 80


def test_what_has_no_turns_has_no_area_and_no_collapses():
    once = CELL._replace(curves=CELL.final[:, None])
    assert set(measure(once, 50)) == set(against(once, CELL, 50)) == {"final", "spread"}
