"""Methods side by side: what their runs show, and the page that says so.

The gap between two methods is over images, paired by image and seed, with an interval from a
bootstrap over images.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l2ljax.errors import InputError
from l2ljax.evaluation.results import from_bits
from l2ljax.machine import describe
from l2ljax.terminal import markdown


def _robust(run: dict[str, Any], attack: str) -> np.ndarray:
    return from_bits(run["evaluation"]["results"][attack]["robust"])


def report(
    runs: Mapping[tuple[str, int], dict[str, Any]],
    methods: Sequence[str],
    seeds: Sequence[int],
    pairs: Sequence[tuple[str, ...]],
    *,
    against: str,
    attacks: Sequence[str],
    draws: int,
) -> dict[str, Any]:
    """What the runs show: by method its accuracies and seconds, and how far it is from `against`.

    Each run is its summary and its evaluation, as their files hold them.
    """
    rows = {}
    for method in methods:
        of = [runs[method, seed] for seed in seeds]
        accuracy = {a: [float(_robust(run, a).mean()) for run in of] for a in attacks}
        rows[method] = {
            "accuracy": accuracy,
            "seconds": [run["summary"]["seconds"]["train"] for run in of],
            "ms_per_step": [
                1e3 * run["summary"]["seconds"]["train"] / run["summary"]["steps"]["last"]
                for run in of
            ],
            "overfitting": [run["summary"]["overfitting"] for run in of],
            "which": [run["evaluation"]["which"] for run in of],
            "flags": of[0]["evaluation"]["config"],
        }
    rng, robust = np.random.default_rng(0), {}
    for method in methods:
        robust[method] = np.stack([_robust(runs[method, seed], attacks[-1]) for seed in seeds])
    reference = robust[against]
    for method, row in rows.items():
        row["gap"] = _gap(rng, robust[method], reference, draws)
        seconds = np.median(rows[against]["seconds"])
        row["time"] = float(np.median(row["seconds"]) / seconds)
    return {
        "against": against,
        "attacks": list(attacks),
        "seeds": [str(seed) for seed in seeds],
        "images": reference.shape[1],
        "rows": rows,
        "pairs": {f"{a}:{b}": _gap(rng, robust[a], robust[b], draws) for a, b in pairs},
        "commits": sorted({r["evaluation"]["made_with"]["commit"] for r in runs.values()}),
        "made_with": describe(),
    }


def _gap(rng: np.random.Generator, ours, other, draws: int) -> list[float]:
    """Mean difference of flags [seeds, images], and its 95 % interval over images."""
    gap = (ours.astype(float) - other).mean(0)  # per image, seeds paired
    drawn = rng.integers(0, len(gap), (draws, len(gap)))
    low, high = np.percentile(gap[drawn].mean(1), (2.5, 97.5))
    return [float(gap.mean()), float(low), float(high)]


def read_trials(folder: str, first: int | None, methods: Sequence[str]) -> dict[str, Any]:
    """What the search found for each method; with `first`, all must have had so many trials."""
    if first and not folder:
        raise InputError("--trials needs --search, the folder of experiments/search.py's records")
    found = {}
    for method in methods:
        path = pathlib.Path(folder) / f"{method}.jsonl"
        lines = path.read_text().splitlines() if folder and path.exists() else []
        trials = [json.loads(line) for line in lines][:first]
        if first and len(trials) < first:
            raise InputError(
                f"{path} has {len(trials)} of {first} trials: "
                f"python experiments/search.py --method={method} --trials={first} --out={folder}"
            )
        if trials:
            best = max(trials, key=lambda trial: trial["robust"])
            scores = sorted((trial["robust"] for trial in trials), reverse=True)
            found[method] = {
                "trials": len(trials),
                "chosen": best["trial"],
                "flags": best["flags"],
                "best": scores[0],
                "median": float(np.median(scores)),
                "five_best": scores[:5],
            }
    return found


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
    both = {f"{a}:{b}": (a, b) for a in report["rows"] for b in report["rows"]}
    lines += [[*both[name], _shown(gap)] for name, gap in report["pairs"].items()]
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
