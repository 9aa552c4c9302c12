"""How much of the device's arithmetic a training step uses: model FLOP/s over the matrix peak.

    python benchmarks/mfu.py --models=wrn-34-10 --batch_size=512 --bf16 --out=results/gpu/mfu
    python benchmarks/mfu.py --methods=plain,grad_l2l --models=wrn-10-2 --batch_size=64 --size=8

The peak is measured here: products of square matrices in the type of the computation. Model FLOPs
are the passes that a step needs (passes.py) times what a forward pass of the classifier and of the
attacker costs by XLA's count, so what is computed again for memory's sake does not count. Images
are random: nothing is read. Elementwise work (BatchNorm, ReLU, noise)
counts in the time and hardly in the FLOPs, so that 100 % is out of reach. Writes OUT.md, OUT.json.
"""

import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.apply import functional, initialise
from l2ljax.commands.flags import run_main
from l2ljax.data import Dataset
from l2ljax.errors import InputError
from l2ljax.machine import Trace, describe, prepare
from l2ljax.methods import method_settings, wants_attacker
from l2ljax.models import make_attacker, make_classifier
from l2ljax.runs.config import Config
from l2ljax.runs.feed import Feed
from l2ljax.runs.from_config import game_of, layout_of
from l2ljax.settings import Setting, defaults
from l2ljax.terminal import duration
from passes import FORWARD, count_passes, write_out
from step_cost import alike, flags_of
from written import command, write

SETTINGS = ("attacker", "attacker_width", "batch_size", "bf16", "remat", "order")
"""The deciding flags that this script takes."""

FLAGS = [
    *flags_of(SETTINGS),
    Setting("methods", str, "methods joined by commas", "plain,pgm,grad_l2l,two_step_l2l"),
    Setting("models", str, "classifiers joined by commas", "wrn-34-4"),
    Setting("size", int, "side of the random images", 32),
    Setting("channels", int, "and their channels", 3),
    Setting("matrix", int, "side of the matrices whose product is the peak; 8192, on a CPU 2048"),
    Setting("steps", int, "steps of a call and of a round", 10),
    Setting("rounds", int, "rounds", 5),
    Setting("out", str, "path of the report without its ending", "runs/mfu"),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]


def peak(side: int, dtype: Any, times: int = 10) -> float:
    """FLOP/s of a product of two matrices of that side: the best of several rounds."""
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(lambda a, b: (a @ b) / side)
    b = product(a, a)
    jax.block_until_ready(product(b, a))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(times):
            b = product(b, a)
        jax.block_until_ready(b)
        seconds.append((time.perf_counter() - began) / times)
    return 2 * side**3 / min(seconds)


def forward_flops(module: Any, x: jax.Array) -> float:
    """XLA's count for one image's forward pass."""
    theta, stats = jax.eval_shape(lambda: initialise(module, jax.random.key(0), x))
    apply = functional(module)
    forward = jax.jit(lambda theta, stats, x: apply(theta, stats, x, "eval")[0])
    with jax.default_device(jax.devices("cpu")[0]):  # XLA counts nothing for a GPU
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        counted = forward.lower(theta, stats, shape).cost_analysis()
    assert counted is not None, "XLA counts for a CPU"
    return float(counted["flops"]) / len(x)


def model_flops(config: Config, size: int, channels: int) -> float:
    """FLOPs that a step of this configuration needs, whatever it computes twice."""
    x = jnp.zeros((8, size, size, channels))
    passes = count_passes(config)
    classifier = forward_flops(make_classifier(config["model"], 10), x)
    total = sum(n * passes[name] for name, n in zip("FIBD", FORWARD, strict=True)) * classifier
    if wants_attacker(config["method"]):
        seen = 2 if "grad_norm" in method_settings(config["method"]) else 1
        a = jnp.zeros((8, size, size, seen * channels))
        attacker = make_attacker(config["attacker"], channels, width=config["attacker_width"])
        total += (passes["f"] + 2 * passes["b"]) * forward_flops(attacker, a)
    return total * config["batch_size"]


def random_images(n: int, size: int, channels: int) -> Dataset:
    """A data set of noise."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n, size, size, channels), np.uint8)
    y = rng.integers(0, 10, n).astype(np.int32)
    names = tuple(str(i) for i in range(10))
    half = (0.5,) * channels
    return Dataset("random", x, y, x[:10], y[:10], x[:10], y[:10], 10, names, half, half, "none")


def measure(config: Config, options: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds per step of one configuration, and the time in which the device idles."""
    steps, batch = options["steps"], config["batch_size"]
    data = random_images(steps * batch, options["size"], options["channels"])
    game = game_of(config, data, layout_of(config, "none"))
    chunk = 1 if jax.default_backend() == "cpu" else steps
    feed = Feed(data, 0, layout=game.layout, batch_size=game.batch_size, chunk=chunk)
    state = game.init(0)

    def run() -> float:
        nonlocal state
        began = time.perf_counter()
        for n, arguments in feed.epoch(0, 0):
            program = game.program(n, state, *arguments)
            state, _ = program(state._replace(step=jnp.zeros_like(state.step)), *arguments)
        jax.block_until_ready(state)
        return 1e3 * (time.perf_counter() - began) / steps

    run()
    ms = [run() for _ in range(options["rounds"])]
    with tempfile.TemporaryDirectory() as folder:
        trace = Trace(pathlib.Path(folder))
        trace.start()
        run()
        trace.stop()
    return {"ms": ms, "busy": trace.busy()}


def bench(given: dict[str, Any]) -> int:
    """Every method on every model."""
    options = defaults(FLAGS) | given
    for name in ("steps", "rounds", "size", "channels"):
        if options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    prepare(options["compilation_cache"])
    settings = {name: given[name] for name in SETTINGS if name in given}
    dtype = jnp.bfloat16 if settings.get("bf16") else jnp.float32
    side = options["matrix"] or (2048 if jax.default_backend() == "cpu" else 8192)
    best, rows = peak(side, dtype), []
    print(f"peak: {best / 1e12:.2f} TFLOP/s ({side} x {side}, {jnp.dtype(dtype).name})", flush=True)
    for model in options["models"].split(","):
        for method in options["methods"].split(","):
            config = alike(method, {**settings, "model": model})
            found = measure(config, options)
            flops = model_flops(config, options["size"], options["channels"])
            reached = flops / (np.median(found["ms"]) / 1e3)
            passes = write_out(count_passes(config))
            row = {"method": method, "model": model, "batch": config["batch_size"]}
            row |= {"flops": flops, "passes": passes, "mfu": reached / best, **found}
            rows.append(row | {"config": config})
            print(f"{model} {method}: {100 * row['mfu']:.1f} % of the peak", flush=True)
    report = {
        "command": command("mfu.py", given),
        "peak": {"flops": best, "matrix": side, "dtype": jnp.dtype(dtype).name},
        "rows": rows,
        "made_with": describe(),
    }
    about = (
        f"Peak: {best / 1e12:.2f} TFLOP/s, products of {side} x {side} matrices in "
        f"{jnp.dtype(dtype).name}. Medians; busy: of a traced round."
    )
    write(options["out"], report, about, table(rows))
    return 0


HEADER: str = (
    "model|method|batch|passes|GFLOP per step|ms per step|of the peak|busy|40 epochs of 50,000"
)


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line per method and model."""
    lines = [HEADER.split("|")]
    for row in rows:
        ms, gflop = f"{np.median(row['ms']):.1f}", f"{row['flops'] / 1e9:.1f}"
        shares = f"{100 * row['mfu']:.1f} %", f"{100 * row['busy']:.1f} %"
        training = duration(np.median(row["ms"]) / 1e3 * (40 * 50_000 // row["batch"]))
        what = row["model"], row["method"], str(row["batch"]), row["passes"]
        lines.append([*what, gflop, ms, *shares, training])
    return lines


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("mfu.py", __doc__, FLAGS, bench, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
