"""Everything that wants an accelerator, by one command: stage by stage, each one resumable whole.

    make gpu-bench OUT=results/gpu
    python benchmarks/gpu.py --out=results/gpu --minutes=9

A stage is one of the other benchmarks; what has written OUT/STAGE.json is not run again, so that
the same command goes on where the time ended. Nothing is downloaded: images are random, or the
digits that come with scikit-learn. A stage that lacks time is ended and
leaves nothing, because half a round would compare what did not run beside each other.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from l2ljax.commands.flags import run_main
from l2ljax.errors import InputError
from l2ljax.settings import Setting, defaults

HERE = pathlib.Path(__file__).resolve().parent

PAPER = "plain,pgm,naive_l2l,grad_l2l,two_step_l2l"

STAGES: dict[str, list[str]] = {
    "accelerator": ["accelerator.py", "--processes=12"],
    "mfu": [
        "mfu.py",
        "--models=wrn-34-4",
        "--methods=plain,grad_l2l",
        "--batch_size=512",
        "--bf16",
        "--rounds=3",
    ],
    "vs_torch": [
        "vs_torch.py",
        "--models=wrn-34-4",
        "--methods=plain,grad_l2l",
        "--batch_size=128",
        "--bf16",
        "--rounds=1",
    ],
    "step_cost": ["step_cost.py", f"--methods={PAPER}", "--model=wrn-34-4", "--attacker_width=1"],
    "mfu_large": ["mfu.py", "--models=wrn-34-10", "--methods=plain", "--batch_size=512", "--bf16"],
    "scaling": ["scaling.py", "--devices=1", "--model=wrn-34-4", "--bf16", "--batch_size=256"],
    "vs_torch_all": [
        "vs_torch.py",
        "--models=wrn-34-4,preact_resnet18",
        "--methods=pgm,two_step_l2l",
        "--batch_size=128",
        "--bf16",
        "--rounds=1",
    ],
}
"""What is measured, the most wanted first: the script in this folder and its flags."""

FLAGS = [
    Setting("out", str, "folder of the reports", "results/gpu"),
    Setting("minutes", float, "after which the stage that runs is ended and none is begun", 9.0),
    Setting("stages", str, "some of the stages, joined by commas; all of them", ",".join(STAGES)),
]


def bench(given: dict[str, Any]) -> int:
    """The stages that are not done yet; 0 when all are."""
    options = defaults(FLAGS) | given
    names = options["stages"].split(",")
    for name in names:
        if name not in STAGES:
            raise InputError(f"--stages={name} is none of {', '.join(STAGES)}")
    if options["minutes"] <= 0:
        raise InputError(f"--minutes={options['minutes']} must be positive")
    out = pathlib.Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options["minutes"]
    left = []
    for name in names:
        if (out / f"{name}.json").exists():
            print(f"{name}: done before", flush=True)
        elif not run_stage(name, out, until - time.monotonic()):
            left.append(name)
    if left:
        print(f"left: {', '.join(left)}; the same command goes on with them")
    return 1 if left else 0


def run_stage(name: str, out: pathlib.Path, seconds: float) -> bool:
    """Whether it came to its end; what it says goes to OUT/STAGE.log."""
    if seconds <= 0:
        return False
    script, *flags = STAGES[name]
    print(f"{name}: {script} {' '.join(flags)}", flush=True)
    began = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(HERE / script), *flags, f"--out={out / name}"],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own processes end with it
        )
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
    how = "ended for lack of time" if code is None else f"ended with {code}"
    print(f"{name}: {how} after {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("gpu.py", __doc__, FLAGS, bench, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
