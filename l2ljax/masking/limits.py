"""The limits of every check, all in one place: suspect above the first, masked above the second.

`benchmarks/calibrate_masking.py` made them on digits; `results/masking.md` has the rule, the
nets and both error rates.
"""

from l2ljax.masking.verdict import Limit

NEVER = float("inf")
"""For a check that is no proof by itself."""

LIMITS: dict[str, Limit] = {
    # Facts: what the official AutoAttack warns of, and what the others are with it.
    "randomised": Limit(1e-4, 1e-4, ""),
    "probabilities": Limit(0, 50, "% of images"),
    "few_classes": Limit(0, NEVER, "classes"),
    "batch_dependence": Limit(1e-4, 1e-4, ""),
    "zero_gradient": Limit(0, 5, "% of images"),
    "shattered": Limit(0.2, 0.5, ""),
    # Calibrated.
    "logit_scale": Limit(5, 5, "% of images"),
    "overfitted": Limit(1, 2, "% of images", 3),
    "one_step": Limit(0, 2, "points", 3),
    "more_steps": Limit(5, 5, "points"),
    "other_loss": Limit(8, 11, "points"),
    "large_radius": Limit(2, 2, "% of images"),
    "black_box": Limit(0.2, 3, "points", 3),
    "transfer": Limit(0, 2, "points", 3),
    # As black_box and transfer, whose questions they ask of a learned attacker.
    "own_attacker": Limit(0, 2, "points", 3),
    "best_response": Limit(0.2, 3, "points", 3),
}
