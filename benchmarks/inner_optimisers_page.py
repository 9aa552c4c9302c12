"""From the losses of `inner_optimisers.py`: means, gaps with their intervals, and the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l2ljax.terminal import markdown

LEARNED, TUNED = "learned", "learned, tuned bound"
DECAY, BEST, APGD = RIVALS = "PGD, decaying step", "PGD, best constant step", "APGD"
"""The players; a phi from a run goes by the run's name."""

SHOWN = (1, 2, 3, 4, 5, 7, 10, 15, 20)
CLAIMED = (4, 20)
"""The T of the table, and those between which the learned optimiser should be ahead."""


def summarise(losses: Mapping[str, np.ndarray], draws: int) -> dict[str, Any]:
    """Means and gaps from losses [nets, seeds, T, images].

    A gap is the learned one's loss less that of the rival which is best at this T, with the 95 %
    interval from a bootstrap over images, paired by image.
    """
    means = {name: v.mean((0, 1, 3)) for name, v in losses.items()}
    players = {
        name: {
            "mean": means[name].tolist(),
            "sd": v.mean((0, 3)).std(0, ddof=min(1, v.shape[1] - 1)).tolist(),
            "by_net": v.mean(3).tolist(),
        }
        for name, v in losses.items()
    }
    images = next(iter(losses.values())).shape[-1]
    rows = np.random.default_rng(0).integers(0, images, (draws, images))
    gaps = {}
    for name in losses:
        if name in RIVALS:
            continue
        gaps[name] = []
        for t in range(len(means[name])):
            rival = max(RIVALS, key=lambda other: means[other][t])
            by_net = losses[name][:, :, t].mean(1) - losses[rival][:, :, t].mean(1)
            gap = by_net.mean(0)
            low, high = np.percentile(gap[rows].mean(1), (2.5, 97.5))
            found = {"steps": t + 1, "rival": rival, "gap": float(gap.mean())}
            found |= {"low": float(low), "high": float(high)}
            gaps[name].append(found | {"by_net": by_net.mean(1).tolist()})
    return {"players": players, "gaps": gaps}


def verdict(gaps: Sequence[Mapping[str, Any]]) -> str:
    """Whether the claim holds: ahead, with the whole interval, wherever it is claimed."""
    first, last = CLAIMED
    claimed = [gap for gap in gaps if first <= gap["steps"] <= last]
    lost = [str(gap["steps"]) for gap in claimed if gap["low"] <= 0]
    where = f"{first} <= T <= {claimed[-1]['steps']}" if claimed else f"T >= {first}"
    if not claimed:
        return f"nothing was played at {where}"
    return f"not ahead at T = {', '.join(lost)}" if lost else f"ahead at every {where}"


def page(report: Mapping[str, Any]) -> str:
    """The Markdown of a report."""
    made, players, o = report["made_with"], report["players"], report["options"]
    lines = [["T", *players, *(f"{name} minus best rival" for name in report["gaps"])]]
    for t in (t for t in SHOWN if t <= o["t_max"]):
        several = (LEARNED, TUNED) if len(report["phi_seeds"]) > 1 else ()
        cells = [
            f"{p['mean'][t - 1]:.3f}" + f" ({p['sd'][t - 1]:.3f})" * (name in several)
            for name, p in players.items()
        ]
        for gaps in report["gaps"].values():
            gap = gaps[t - 1]
            cells.append(f"{gap['gap']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]")
        lines.append([str(t), *cells])
    said = "\n".join(f"- {name}: {verdict(gaps)}" for name, gaps in report["gaps"].items())
    return (
        f"Measured here: `{report['command']}`\n\n"
        f"{report['dataset']}, eps = {report['eps']}, {report['images']} test images: mean "
        "cross-entropy after T gradients, all from the same random starts. "
        f"{LEARNED}: {o['ascents']} ascents with T = {o['t_train']} on {report['trained_on']} "
        f"alone, seeds {', '.join(report['phi_seeds'])} (standard deviation over them); judged on "
        f"{', '.join(report['judged_on'])}. Cell: our reconstruction, LSTM of {o['hidden']}, "
        f"input {o['pre']}, weights {o['weights']}; a step is at most {o['bound']:g} eps, or 2 eps "
        f"/ T if that is more. {TUNED}: the same phi, that bound chosen for every T on training "
        f"images of {report['trained_on']}. PGD's steps were chosen for every T on validation "
        "images of each judging net; the best rival is the best at that T on the test "
        "images themselves. Intervals: 95 %, bootstrap over images, paired. "
        f"{made['device']}, {made['cores']} cores, jax {made['jax']}, commit {made['commit']}."
        f"\n\n{markdown(lines)}\n\n"
        f"Whole intervals above 0 for {CLAIMED[0]} <= T <= {CLAIMED[1]}:\n\n{said}\n"
    )
