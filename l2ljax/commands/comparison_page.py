"""The page of experiments/compare.py: its report as Markdown."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from l2ljax.tables import markdown


def page(report: dict[str, Any]) -> str:
    """The whole page: how it was made, the methods, further differences, the search."""
    last, against = report["attacks"][-1], report["against"]
    header = ["method", *report["attacks"], f"{last} minus {against}"]
    lines = [[*header, "training", "time", "ms per step", "overfitted"]]
    for method, row in report["rows"].items():
        shares = [_spread(row["accuracy"][attack]) for attack in report["attacks"]]
        difference = "" if method == against else _shown(row["gap"])
        seconds = f"{np.median(row['seconds']):.1f} s"
        cost = [seconds, f"{row['time']:.2f}x", f"{np.median(row['ms_per_step']):.0f}"]
        lines.append([method, *shares, difference, *cost, _overfitted(row["overfitting"])])
    made = report["made_with"]
    first, seeds = next(iter(report["rows"].values()))["flags"], report["seeds"]
    which = "seed" if len(seeds) == 1 else "seeds"
    shown = "in %" if len(seeds) == 1 else "mean (standard deviation over seeds) in %"
    tested = {"best": "the epoch best on validation", "last": "the last epoch"}[report["which"]]
    return (
        f"Measured here: `{report['command']}`\n\n"
        f"{report['dataset']}, eps = {first['eps']}, {report['images']} test images, {tested}, "
        f"{which} {', '.join(seeds)}: {shown}; the difference "
        f"with its 95 % interval from a bootstrap over images, paired by image and seed; training: "
        f"median seconds of optimisation steps, and over {against}'s; overfitted: runs in which "
        f"the guard saw catastrophic overfitting, and the epoch when it first did. "
        f"{made['device']}, "
        f"{made['cores']} cores, jax {made['jax']}, commit {', '.join(report['commits'])}.\n\n"
        f"{markdown(lines)}\n{_pairs_page(report)}{_search_page(report['search'])}"
    )


def _overfitted(events: Sequence[Sequence[dict[str, Any]]]) -> str:
    """`2 of 3, epochs 7, 9`, from what the guard saw in the run of each seed."""
    firsts = [str(seen[0]["epoch"]) for seen in events if seen]
    epochs = f", epoch{'s' * (len(firsts) > 1)} {', '.join(firsts)}" if firsts else ""
    return f"{len(firsts)} of {len(events)}{epochs}"


def _shown(gap: Sequence[float]) -> str:
    value, low, high = (100 * share for share in gap)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _pairs_page(report: dict[str, Any]) -> str:
    if not report["pairs"]:
        return ""
    lines = [["method", "minus", report["attacks"][-1]]]
    lines += [[*name.split(":"), _shown(gap)] for name, gap in report["pairs"].items()]
    return f"\nOther differences, in the same way:\n\n{markdown(lines)}\n"


def _search_page(search: dict[str, Any]) -> str:
    if not search:
        return ""
    lines = [["method", "trials", "chosen", "best", "five best", "median", "flags"]]
    for method, row in search.items():
        five = ", ".join(f"{100 * share:.1f}" for share in row["five_best"])
        shares = f"{100 * row['best']:.1f}", five, f"{100 * row['median']:.1f}"
        flags = " ".join(f"{name}={value}" for name, value in row["flags"].items())
        lines.append([method, str(row["trials"]), f"number {row['chosen']}", *shares, flags])
    return (
        "\nThe recipes were chosen by `experiments/search.py`, robust accuracy on the validation "
        "split (%; of Plain the clean one), with another seed than the runs above:\n\n"
        + markdown(lines)
        + "\n"
    )


def _spread(shares: Sequence[float]) -> str:
    """`71.4 (1.4)`, or the figure alone of a single seed."""
    spread = f" ({100 * np.std(shares, ddof=1):.1f})" if len(shares) > 1 else ""
    return f"{100 * np.mean(shares):.1f}{spread}"
