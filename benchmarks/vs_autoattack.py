r"""AutoAttack's speed beside the official one's: the same net, the same images, processes in turn.

    pip install -e '.[crosscheck]'
    python benchmarks/vs_autoattack.py --workdir=runs/cifar10-pgm-0 --images=500 --rounds=3 \
        --out=results/autoattack_speed

Ours runs in JAX, the official one in torch on a twin with the same weights. Every run is a process
of its own that may use `--threads` cores and no others; the two sides take turns, and a ratio is
taken within a round, so that whatever else the machine does falls on both. Ours is timed after
a first short pass over one batch that compiles everything; its cost is written down beside.
Writes OUT.md and OUT.json.
"""

import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

from l2ljax.commands.flags import run_main
from l2ljax.errors import InputError
from l2ljax.settings import Setting, defaults

SIDES = ("ours", "official")

FLAGS = [
    Setting("workdir", str, "a run of train.py with a WideResNet"),
    Setting("which", ("best", "last", "best_ema", "last_ema"), "its checkpoint", "best"),
    Setting("images", int, "the first so many test images", 500),
    Setting("batch_size", int, "images per batch, on both sides", 250),
    Setting("norm", ("linf", "l2"), "the ball", "linf"),
    Setting("eps", "fraction", "the radius; the training one"),
    Setting("budget", str, "APGD steps, FAB steps, targets, Square queries", "100,100,9,5000"),
    Setting("threads", str, "cores per process, one measurement each, joined by commas", "2,1"),
    Setting("rounds", int, "runs of each side and number of cores", 3),
    Setting("limit", float, "what ours over official may be", 2.0),
    Setting("mflop", float, "what the net's forward pass of an image may need", 25.0),
    Setting("out", str, "path of the report without its ending", "runs/autoattack_speed"),
    Setting("data_dir", str, "where the data set lies; the user's cache folder"),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
    Setting("side", ("", *SIDES), "run this side once, print JSON, write nothing", ""),
]


def run_side(side: str, cores: Sequence[int], given: dict[str, Any]) -> dict[str, Any]:
    """One run of a side in a process of its own, on those cores alone."""
    passed = {name: value for name, value in given.items() if name not in ("threads", "rounds")}
    flags = [f"--{name}={value}" for name, value in (passed | {"side": side}).items()]

    def confine() -> None:
        os.sched_setaffinity(0, cores)

    done = subprocess.run(
        [sys.executable, str(pathlib.Path(__file__).resolve()), *flags],
        env={**os.environ, "OMP_NUM_THREADS": str(len(cores)), "JAX_PLATFORMS": "cpu"},
        preexec_fn=confine,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise InputError(f"the {side} side ended with {done.returncode}; its message is above")
    return json.loads(done.stdout.splitlines()[-1])


def compare(given: dict[str, Any]) -> int:
    """Take turns, judge, write."""
    options = defaults(FLAGS) | given
    if not options["workdir"]:
        raise InputError("--workdir=FOLDER of a run is needed")
    if options["side"]:
        from official.timed import play

        print(json.dumps(play(options)))
        return 0
    from l2ljax.machine import describe
    from l2ljax.runs.config import write_json
    from l2ljax.terminal import markdown

    cores = sorted(os.sched_getaffinity(0))
    counts = options["threads"].split(",")
    if not all(count.isdigit() and 0 < int(count) <= len(cores) for count in counts):
        raise InputError(f"--threads={options['threads']}: this process may use {len(cores)} cores")
    counts = [int(count) for count in counts]
    runs: list[dict[str, Any]] = []
    for round_ in range(options["rounds"]):
        for count in counts:
            # Who goes first changes from round to round.
            for side in SIDES if round_ % 2 == 0 else SIDES[::-1]:
                result = run_side(side, cores[:count], given)
                runs.append({"side": side, "threads": count, "round": round_, **result})
                print(f"round {round_ + 1}, {count} threads, {side}: {result['total']:.1f} s")
    if runs[0]["mflop"] > options["mflop"]:
        raise InputError(f"the net needs {runs[0]['mflop']:.1f} MFLOP, more than --mflop")
    rows = summarise(runs)
    shown = {flag.name: given[flag.name] for flag in FLAGS if flag.name in given}
    shown.pop("data_dir", None)
    command = "python benchmarks/vs_autoattack.py " + " ".join(
        shlex.quote(f"--{name}={value}") for name, value in shown.items()
    )
    import importlib.metadata

    versions = {name: importlib.metadata.version(name) for name in ("torch", "pyautoattack")}
    made = describe() | versions
    over = {
        count: row["ratio"] for (count, attack), row in rows.items() if attack == "whole cascade"
    }
    verdict = ", ".join(
        f"{count} threads: {ratio:.2f} ({'ok' if ratio <= options['limit'] else 'over'})"
        for count, ratio in over.items()
    )
    first = runs[0]
    text = "\n\n".join(
        [
            f"Measured here: `{command}`",
            f"{made['device']}, {made['cores']} cores, jax {made['jax']}, torch {made['torch']}, "
            f"pyautoattack {made['pyautoattack']}, commit {made['commit']}.",
            f"`standard` on {options['images']} images, {first['run']}, {first['model']}, "
            f"{first['mflop']:.1f} MFLOP a forward pass, {options['norm']}, "
            f"eps = {first['eps']:.4g}; {options['rounds']} rounds in turn, separate processes. "
            "Seconds are medians; a ratio is the median over rounds of ours over official.",
            f"Ours over official, at most {options['limit']:g}: {verdict}.",
            markdown(_lines(rows)),
        ]
    )
    out = pathlib.Path(options["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    named = [{"threads": n, "part": part, **row} for (n, part), row in rows.items()]
    report = {"command": command, "rows": named, "runs": runs, "made_with": made}
    kept = {name: value for name, value in options.items() if name != "data_dir"}
    write_json(out.with_suffix(".json"), report | {"options": kept})
    out.with_suffix(".md").write_text(text + "\n")
    print(text)
    return 0 if all(ratio <= options["limit"] for ratio in over.values()) else 1


def summarise(runs: Sequence[dict[str, Any]]) -> dict[tuple[int, str], dict[str, float]]:
    """(threads, part) -> median seconds of both sides and the median ratio within a round."""
    rows = {}
    for count in dict.fromkeys(run["threads"] for run in runs):
        sides = {
            side: [r for r in runs if r["threads"] == count and r["side"] == side] for side in SIDES
        }
        parts = [*sides["ours"][0]["seconds"], "whole cascade", "before"]
        for part in parts:
            spent = {
                side: np.array([_seconds(run, part) for run in of]) for side, of in sides.items()
            }
            rows[count, part] = {
                "ours": float(np.median(spent["ours"])),
                "official": float(np.median(spent["official"])),
                "ratio": float(np.median(spent["ours"] / np.maximum(spent["official"], 1e-9))),
                "accuracy_ours": _accuracy(sides["ours"][0], part),
                "accuracy_official": _accuracy(sides["official"][0], part),
            }
    return rows


def _seconds(run: dict[str, Any], part: str) -> float:
    whole = {"whole cascade": run["total"], "before": run["before"]}
    return whole[part] if part in whole else run["seconds"].get(part, 0.0)


def _accuracy(run: dict[str, Any], part: str) -> float:
    last = list(run["accuracy"].values())[-1]
    return run["accuracy"].get("clean" if part == "before" else part, last)


def _lines(rows: dict[tuple[int, str], dict[str, float]]) -> list[list[str]]:
    lines = [["threads", "part", "ours s", "official s", "ratio", "standing: ours / official"]]
    for (count, part), row in rows.items():
        standing = f"{100 * row['accuracy_ours']:.1f} / {100 * row['accuracy_official']:.1f} %"
        seconds = [f"{row['ours']:.1f}", f"{row['official']:.1f}"]
        ratio = "" if part == "before" else f"{row['ratio']:.2f}"
        label = "before (ours: compiling)" if part == "before" else part
        lines.append([str(count), label, *seconds, ratio, standing])
    return lines


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("vs_autoattack.py", __doc__, FLAGS, compare, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
