"""Do two checkouts train the same? The hashes of theta and phi after two epochs, side by side.

    python benchmarks/same_numbers.py --before=../l2ljax-before --after=.
    python benchmarks/same_numbers.py --before=../l2ljax-before --after=. --x64

Each folder's own `experiments/train.py` plays every method on digits with every seed. A change that
only moves code leaves every bit as it was. One that adds in another order does not: for it `--x64`
compares the first twenty losses in float64 instead, where the two may differ by 1e-9 of the loss.
JAX alone does not make a run float64, because much of it asks for float32 by name; so the commands
are started with that name meaning float64, too. Ends with 1 if anything differs.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from l2ljax.commands.flags import numbers, run_main
from l2ljax.errors import InputError
from l2ljax.settings import Setting, defaults
from l2ljax.terminal import align

METHODS = "plain,pgm,grad_l2l,two_step_l2l,rnn_adv,fast_bat"

FLAGS = [
    Setting("before", str, "a folder with the code as it was"),
    Setting("after", str, "a folder with the code as it is"),
    Setting("methods", str, "methods joined by commas", METHODS),
    Setting("seeds", str, "seeds joined by commas", "0,1"),
    Setting(
        "x64", bool, "compare the first losses in float64, not the bits of theta and phi", False
    ),
]

SIDES = ("before", "after")

LOSSES, TOLERANCE = 20, 1e-9
"""How many losses are compared in float64, and their relative difference that is none."""

SAME = ["--dataset=digits", "--plots=false", "--tensorboard=false", "--final_attacks=clean"]

IN_FLOAT64 = """
import os, runpy, sys
import jax.numpy as jnp
jnp.float32 = jnp.float64
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def train(folder: pathlib.Path, method: str, seed: int, x64: bool) -> dict[str, Any]:
    """What `read` finds of one run that the code in the folder has made."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    start, flags = [sys.executable], [f"--method={method}", f"--seeds={seed}", *SAME]
    if x64:  # three epochs: some recipes have no more than eight steps in one
        environment["JAX_ENABLE_X64"] = "1"
        start, flags = [*start, "-c", IN_FLOAT64], [*flags, "--epochs=3", "--log_every=1"]
    else:
        flags.append("--epochs=2")
    with tempfile.TemporaryDirectory() as made:
        workdir = pathlib.Path(made) / "run"
        done = subprocess.run(
            [*start, "experiments/train.py", *flags, f"--workdir={workdir}"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise InputError(
                f"{folder}: {method}, seed {seed} ended with {done.returncode}: {last}"
            )
        return read(workdir, x64)


def read(workdir: pathlib.Path, x64: bool) -> dict[str, Any]:
    """The hashes of both players, or the first losses, as the files of a run have them."""
    if not x64:
        summary = json.loads((workdir / "summary.json").read_text())
        return {player: summary[f"{player}_sha256"] for player in ("theta", "phi")}
    losses: dict[int, float] = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        if values.get("theta/loss") is not None:
            losses.setdefault(values["step"], values["theta/loss"])
    return {"losses": [losses[step] for step in sorted(losses)][:LOSSES]}


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], bool]:
    """What stands in the table of two such findings, and whether they are the same."""
    if "losses" not in before:
        shown = [found[player][:16] for player in ("theta", "phi") for found in (before, after)]
        return shown, before == after
    a, b = before["losses"], after["losses"]
    if not len(a) == len(b) == LOSSES or not all(map(math.isfinite, a + b)):
        return [str(len(a)), str(len(b)), "-"], False
    apart = max(abs(p - q) / max(abs(p), abs(q), 1e-300) for p, q in zip(a, b, strict=True))
    return [f"{a[-1]:.12g}", f"{b[-1]:.12g}", f"{apart:.1e}"], apart <= TOLERANCE


def bench(given: dict[str, Any]) -> int:
    """Every method and seed on both sides; 0 where all are the same."""
    options = defaults(FLAGS) | given
    folders = {side: pathlib.Path(options[side] or "").resolve() for side in SIDES}
    for side, folder in folders.items():
        if not options[side]:
            raise InputError(f"--{side}=FOLDER with a checkout is needed")
        if not (folder / "experiments" / "train.py").is_file():
            raise InputError(f"--{side}={folder} has no experiments/train.py")
    x64, seeds, all_same = options["x64"], numbers("seeds", options["seeds"]), True
    found = ["last of 20 losses before", "after", "apart by"]
    found = found if x64 else ["theta before", "after", "phi before", "after"]
    lines = [["method", "seed", *found, "the same"]]
    for method in options["methods"].split(","):
        for seed in seeds:
            print(f"{method}, seed {seed}", file=sys.stderr, flush=True)
            shown, same = compare(*(train(folders[side], method, seed, x64) for side in SIDES))
            lines.append([method, str(seed), *shown, "yes" if same else "NO"])
            all_same &= same
    print(align(lines))
    return 0 if all_same else 1


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("same_numbers.py", __doc__, FLAGS, bench, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
