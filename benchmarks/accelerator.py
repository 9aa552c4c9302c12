"""Does the accelerator compute what the CPU computes? Every method's first steps on both.

    python benchmarks/accelerator.py --out=results/gpu/accelerator
    python benchmarks/accelerator.py --methods=plain,grad_l2l --accelerator=cpu

Both devices start from the same parameters, images and keys. Each program is traced for its own
kind of device. In float64 the two may differ by rounding alone: the largest relative difference of
a loss, and of a player's parameters after the last step, must stay below 1e-9. Float32 stands
beside it as a user runs it. There an H100's convolutions and products take their operands in
TensorFloat-32, so that it is shown and not judged. Much of the library asks for float32 by name, so
that name means float64 while the first comparison runs. With --accelerator=cpu the programs of a
GPU run on the CPU, which tries the script itself. Ends with 1 if a method differs.
"""

import multiprocessing
import os
import pathlib
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

os.environ.setdefault("JAX_PLATFORMS", "")  # every kind of device that there is
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the processes share its memory

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.commands.flags import run_main
from l2ljax.data.batches import epoch_order
from l2ljax.devices import compiling_for
from l2ljax.errors import InputError
from l2ljax.machine import describe, prepare
from l2ljax.methods import METHODS
from l2ljax.runs.config import resolve
from l2ljax.runs.from_config import game_of
from l2ljax.runs.run import load_data
from l2ljax.settings import Setting, defaults
from l2ljax.types import Tree
from written import command, write

TOLERANCE = 1e-9
"""The relative difference that float64's rounding may make in a few steps."""

CONSTANT = {"theta_schedule": "constant", "phi_schedule": "constant", "eps_warmup": 0}
"""A schedule computes its rate in float32, and two devices round the rates of a warm-up apart."""

COMPARED = ("losses", "theta", "phi")

FLAGS = [
    Setting("methods", str, "methods joined by commas; all", ",".join(METHODS)),
    Setting("steps", int, "steps of training", 4),
    Setting("batch_size", int, "images of a step", 32),
    Setting("processes", int, "methods that are compared at once", 1),
    Setting("accelerator", str, "the other device: gpu | tpu | cpu", "gpu"),
    Setting("out", str, "path of the report without its ending", "runs/accelerator"),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]


def first_steps(method: str, device: Any, traced_for: str, options: dict[str, Any]) -> Tree:
    """The losses of the first steps and both players after them, on that device."""
    settings = {"method": method, "dataset": "digits", "batch_size": options["batch_size"]}
    config = resolve(settings | CONSTANT | {"seed": 0})
    data = load_data(config, None)
    with jax.default_device(jax.devices("cpu")[0]):
        game = game_of(config, data)
        # Networks keep their parameters in the float32 that was meant when they were defined.
        width = jnp.result_type(float)
        state = jax.tree.map(
            lambda leaf: leaf.astype(width) if leaf.dtype == np.float32 else leaf, game.init(0)
        )
    losses = []
    with jax.default_device(device), compiling_for(traced_for):
        state = jax.device_put(state, device)
        x, y = jax.device_put((data.x_train, data.y_train), device)
        order = jax.device_put(epoch_order(0, 0, 0, len(data.x_train)), device)
        step = jax.jit(game.train_step)
        for _ in range(options["steps"]):
            state, metrics = step(state, x, y, order, jnp.zeros((), jnp.int32), jax.random.key(1))
            losses.append(metrics["theta/loss"])
    return jax.device_get({"losses": losses, "theta": state.theta, "phi": state.phi})


def apart(a: Tree, b: Tree) -> float:
    """The largest difference of a leaf, relative to the leaf's largest entry; inf for a NaN."""
    worst = 0.0
    for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if not (np.isfinite(p).all() and np.isfinite(q).all()):
            return float("inf")
        scale = max(float(np.abs(p).max(initial=0)), float(np.abs(q).max(initial=0)), 1e-300)
        worst = max(worst, float(np.abs(p - q).max(initial=0)) / scale)
    return worst


def differences(method: str, accelerator: str, options: dict[str, Any]) -> dict[str, Any]:
    """By width of a number and by what is compared: how far the two devices are apart."""
    prepare(options["compilation_cache"])
    sides = (("cpu", "cpu"), (accelerator, "gpu" if accelerator == "cpu" else accelerator))
    found: dict[str, Any] = {}
    named = jnp.float32
    for wide, bits in ((True, "64"), (False, "32")):
        jnp.float32 = jnp.float64 if wide else named
        try:
            with jax.enable_x64(wide):
                on_cpu, on_other = (
                    first_steps(method, jax.devices(kind)[0], traced_for, options)
                    for kind, traced_for in sides
                )
        finally:
            jnp.float32 = named
        found[bits] = {name: apart(on_cpu[name], on_other[name]) for name in COMPARED}
    return found


def bench(given: dict[str, Any]) -> int:
    """The table of all methods; 0 where float64 agrees in each."""
    options = defaults(FLAGS) | given
    methods = options["methods"].split(",")
    for method in methods:
        if method not in METHODS:
            raise InputError(f"--methods={method} is none of {', '.join(METHODS)}")
    kind = options["accelerator"]
    try:
        devices = jax.devices("cpu")[0], jax.devices(kind)[0]
    except RuntimeError as error:
        raise InputError(f"--accelerator={kind}: there is none here ({error})") from None
    found: dict[str, Any] = {}
    with ProcessPoolExecutor(options["processes"], multiprocessing.get_context("spawn")) as pool:
        jobs = {m: pool.submit(differences, m, kind, options) for m in methods}
        for method, job in jobs.items():
            found[method] = job.result()
            print(method, found[method], file=sys.stderr, flush=True)
    agree = {m: max(of["64"].values()) <= TOLERANCE for m, of in found.items()}
    lines = [["method", "loss", "theta", "phi", "agrees", "loss (32)", "theta (32)", "phi (32)"]]
    for method, of in found.items():
        wide, narrow = ([f"{of[bits][name]:.1e}" for name in COMPARED] for bits in ("64", "32"))
        lines.append([method, *wide, "yes" if agree[method] else "NO", *narrow])
    report = {
        "command": command("accelerator.py", given),
        "made_with": describe(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in devices],
        "steps": options["steps"],
        "tolerance": TOLERANCE,
        "differences": found,
    }
    write(
        options["out"],
        report,
        f"The largest relative difference between {devices[1].device_kind} and the CPU, of the "
        f"losses of {options['steps']} steps on digits and of both players after them: in float64, "
        f"where {TOLERANCE:.0e} is allowed, and in float32 at JAX's default precision (32).",
        lines,
    )
    return 0 if all(agree.values()) else 1


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("accelerator.py", __doc__, FLAGS, bench, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
