"""What agreement means, in numbers: the gates of the cross-check and their statistics.

Flags are booleans per image, True where it still stands. NumPy is all that is needed.
"""

import math
from typing import Any

import numpy as np

LOGITS = 1e-4
"""How far logits of the two sides may be apart."""

GRADIENTS = 1e-4
"""How far an image's input gradients may be apart, over the largest entry of any of them."""

KINKED = 0.02
"""The share of images whose gradients may differ all the same: there a ReLU's input is 0 to
rounding, and the two sides stand on either side of it."""

FLAGS_EQUAL = 0.995
"""The share of images with equal flags when no chance is left in an attack."""

ABOVE = 0.01
"""The upper 95 % bound of our robust accuracy minus the official one has to lie below this."""

ALLOWANCE = 0.01
"""How much more than official against itself we may differ from it, per image."""

POOLED = 2000
"""Fewer images than this decide nothing about ABOVE."""

ROUNDING = 1e-6
"""How far outside the ball or the box a pixel may lie."""

Z = 1.959964


def equal(ours: np.ndarray, official: np.ndarray) -> float:
    """The share of images on which two sets of flags agree."""
    return float((ours == official).mean())


def upper_bound(ours: np.ndarray, official: np.ndarray) -> tuple[float, float]:
    """The paired difference in robust accuracy, ours minus official, and its upper 95 % bound.

    Agresti and Min's interval (Statistics in Medicine 24, 2005): half an image is added to each of
    the four cells, so that no disagreement at all still leaves a bound above 0.
    """
    n = len(ours) + 2
    only_ours = float((ours & ~official).sum()) + 0.5
    only_official = float((official & ~ours).sum()) + 0.5
    gap = (only_ours - only_official) / n
    spread = math.sqrt((only_ours + only_official) / n - gap**2)
    return float(ours.mean() - official.mean()), gap + Z * spread / math.sqrt(n)


def among_themselves(runs: np.ndarray) -> float:
    """The mean disagreement per image over all pairs of runs [seeds, N]."""
    pairs = [(i, j) for i in range(len(runs)) for j in range(i)]
    return float(np.mean([1 - equal(runs[i], runs[j]) for i, j in pairs]))


def from_them(ours: np.ndarray, runs: np.ndarray) -> float:
    """The mean disagreement per image between ours [N] and every run [seeds, N]."""
    return float(np.mean([1 - equal(ours, run) for run in runs]))


def sizes(delta: np.ndarray, norm: str) -> np.ndarray:
    """The norm of every image's perturbation, in double precision."""
    flat = np.asarray(delta, np.float64).reshape(len(delta), -1)
    return np.abs(flat).max(1) if norm == "linf" else np.sqrt((flat**2).sum(1))


def unlawful(x: np.ndarray, x_adv: np.ndarray, eps: float, norm: str) -> int:
    """How many images are not finite, or leave the eps-ball or the box by more than rounding."""
    far = sizes(x_adv.astype(np.float64) - x, norm) > eps + ROUNDING
    flat = x_adv.reshape(len(x_adv), -1)
    outside = (flat < -ROUNDING) | (flat > 1 + ROUNDING) | ~np.isfinite(flat)
    return int((far | outside.any(1)).sum())


def gradients_apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The largest difference of every image's gradient, over the largest entry of all."""
    scale = max(float(np.abs(b).max()), 1e-30)
    return np.abs(a - b).reshape(len(a), -1).max(1) / scale


def write_bits(flags: np.ndarray) -> str:
    """`1101`: an image that stands is a 1."""
    return "".join("1" if stands else "0" for stands in flags)


def read_bits(bits: str) -> np.ndarray:
    """The flags again."""
    return np.array([bit == "1" for bit in bits])


def judge_cascades(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gaps, bounds and disagreements of every row and of the images of all rows together."""
    judged = []
    if not rows:
        return judged
    for name, norm, members in [(r["net"], r["norm"], [r]) for r in rows] + [("all", "", rows)]:
        mine = np.concatenate([read_bits(row["flags"]["ours"]) for row in members])
        seeds = range(min(len(row["flags"]["official"]) for row in members))
        runs = np.stack(
            [
                np.concatenate([read_bits(row["flags"]["official"][seed]) for row in members])
                for seed in seeds
            ]
        )
        bounds = [upper_bound(mine, run) for run in runs]
        judged.append(
            {
                "net": name,
                "norm": norm,
                "images": len(mine),
                "ours": float(mine.mean()),
                "official": [float(run.mean()) for run in runs],
                "gap": float(np.mean([gap for gap, _ in bounds])),
                "bound": max(bound for _, bound in bounds),
                "among_themselves": among_themselves(runs),
                "from_them": from_them(mine, runs),
            }
        )
    return judged


def misses(report: dict[str, Any]) -> list[str]:
    """Every gate that is not met, one line each; what is not measured is not met."""
    lines = [f"not measured yet: {part} and what follows it" for part in report["unfinished"]]
    for row in report["parity"]:
        if row["logits"] >= LOGITS or row["argmax_equal"] < 1:
            lines.append(f"{row['net']}, {row['via']}: logits {row['logits']:.1e} apart")
        if row["gradients_kinked"] > KINKED:
            lines.append(f"{row['net']}, {row['via']}: gradients are apart")
    for row in report["without_chance"]:
        where = f"{row['net']}, {row['norm']}, {row['attack']}, {row['via']}"
        if row["equal"] < FLAGS_EQUAL:
            lines.append(f"{where}: {100 * row['equal']:.2f} % of flags equal")
    for row in [*report["without_chance"], *report["cascade"]]:
        where = f"{row['net']}, {row['norm']}, {row.get('attack', 'cascade')}"
        for rule in ("unlawful", "not_both"):
            if row[rule]:
                lines.append(f"{where}: {row[rule]} images {rule.replace('_', ' ')}")
    for row in report["judged"]:
        where = ", ".join(filter(None, [row["net"], row["norm"], "cascade"]))
        if row["from_them"] > row["among_themselves"] + ALLOWANCE:
            lines.append(f"{where}: differs on {100 * row['from_them']:.2f} % of images")
        if row["net"] == "all" and row["bound"] >= ABOVE:
            lines.append(f"{where}: the bound is {100 * row['bound']:.2f} points")
        if row["net"] == "all" and row["images"] < POOLED:
            lines.append(f"{where}: {row['images']} images, {POOLED} are needed")
    return lines
