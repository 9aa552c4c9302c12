"""How far is the roofline of plans off? Against published and measured times of the same nets.

    python benchmarks/roofline_check.py --out=results/roofline_check

Published: seconds per epoch of the first L2L paper (arXiv 1811.01213v1, table 4, a GTX 1080 Ti)
and of Fast-BAT (arXiv 2112.12376v1, table 1, a Tesla P100). Measured: this package's Fast-AT net on
an H100 (results/gpu/fast_at.json). The plan counts the products of our own step of the same method,
net and batch. The last column is the bound's share of the time: 1 would be a net that computes at
the peak. The row of the H100 needs its compiler (extra plan-cuda), and without it is left out by
name.
"""

import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from l2ljax.commands.flags import run_main
from l2ljax.commands.plan import OF_LIBTPU
from l2ljax.machine import describe
from l2ljax.plan import make_plan
from l2ljax.plan.compiler import missing_extra
from l2ljax.plan.machines import find
from l2ljax.settings import Setting, defaults
from written import command, write

FLAGS = [
    Setting("out", str, "path of the report without its ending", "runs/roofline_check"),
]

V1 = {"dataset": "cifar10", "recipe": "l2l_v1"}
FAST = {"dataset": "cifar10"}

PUBLISHED = [
    ("gtx1080ti", {**V1, "method": "plain"}, 36.68),
    ("gtx1080ti", {**V1, "method": "fgsm"}, 104.87),
    ("gtx1080ti", {**V1, "method": "pgm"}, 421.56),
    ("gtx1080ti", {**V1, "method": "grad_l2l", "attacker": "slim"}, 120.48),
    ("gtx1080ti", {**V1, "method": "two_step_l2l", "attacker": "slim"}, 230.56),
    ("gtx1080ti", {**V1, "method": "grad_l2l", "attacker": "wide"}, 152.11),
    ("gtx1080ti", {**V1, "method": "two_step_l2l", "attacker": "wide"}, 290.61),
    ("p100", {**FAST, "method": "fast_at"}, 42.0),
    ("p100", {**FAST, "method": "grad_align", "model": "preact_resnet18"}, 150.0),
    ("p100", {**FAST, "method": "fast_bat"}, 135.0),
]
"""Machine, flags of the run, seconds per epoch of 50,000 images."""

IMAGES = 50_000

HEADER: str = (
    "machine|method|attacker|model|batch|time|GFLOP a step|ms a step|bound, ms|bound / time"
)


def measured() -> tuple[dict[str, Any], float]:
    """The flags of the H100's run, and its median seconds of training a step."""
    path = pathlib.Path(__file__).resolve().parent.parent / "results" / "gpu" / "fast_at.json"
    found = json.loads(path.read_text())
    names = ("method", "dataset", "bf16")
    ends = [(line["step"], line["seconds/train"]) for line in found["epochs"]]
    steps, seconds = np.diff(np.array(ends), axis=0).T
    return {name: found["config"][name] for name in names}, float(np.median(seconds / steps))


def row(machine: str, flags: dict[str, Any], seconds_a_step: float | None, epoch: float) -> dict:
    """The plan beside the time: of a step, or of an epoch of all images."""
    plan = make_plan(flags, machine)
    steps = IMAGES / plan.config["batch_size"]
    taken = epoch / steps if seconds_a_step is None else seconds_a_step
    return {
        "machine": machine,
        "method": plan.config["method"],
        "attacker": flags.get("attacker", ""),
        "model": plan.config["model"],
        "batch": plan.config["batch_size"],
        "source": "published" if seconds_a_step is None else "measured",
        "plan": "compiled" if plan.training.compiled else "lowered",
        "flops": plan.training.flops,
        "ms": 1e3 * taken,
        "bound_ms": 1e3 * plan.step_seconds,
        "bound": plan.step_seconds / taken,
        "flags": flags,
    }


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("roofline_check.py", __doc__, FLAGS, check, argv)


def check(given: dict[str, Any]) -> int:
    """Every row, and the table."""
    os.environ.update({name: os.environ.get(name, value) for name, value in OF_LIBTPU.items()})
    jax.config.update("jax_platforms", "cpu")
    options = defaults(FLAGS) | given
    rows = [row(machine, flags, None, epoch) for machine, flags, epoch in PUBLISHED]
    lacking = missing_extra(find("h100"))
    if lacking is None:
        flags, step = measured()
        rows.append(row("h100", flags, step, 0.0))
    else:
        print(f"left out: h100, measured: {lacking}", file=sys.stderr)
    lines: list[list[str]] = [HEADER.split("|")]
    for r in rows:
        words = (r["machine"], r["method"], r["attacker"], r["model"], str(r["batch"]), r["source"])
        numbers = (
            f"{r['flops'] / 1e9:.0f}",
            f"{r['ms']:.1f}",
            f"{r['bound_ms']:.1f}",
            f"{r['bound']:.2f}",
        )
        lines.append([*words, *numbers])
    report = {"command": command("roofline_check.py", given), "rows": rows, "made_with": describe()}
    about = (
        "The times of GTX 1080 Ti and P100 are quoted; their bounds count products alone, before "
        "XLA optimises, over the float32 peak. That of the H100 is measured, its bound compiled."
    )
    write(options["out"], report, about, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
