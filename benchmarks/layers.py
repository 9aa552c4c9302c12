# pyright: reportMissingImports=false
"""A net's convolutions one by one: XLA's own, as patches times a matrix, and PyTorch's.

    python benchmarks/layers.py --model=wrn-10-2 --batch_size=64
    python benchmarks/layers.py --model=wrn-34-4 --batch_size=8 --attacker=wide --threads=1

Each distinct convolution of the classifier, and of the attacker as it stands in Grad L2L, is timed
alone: forward, the gradient of its input, the gradient of its weights. `ours` names the form that
`convolve` of l2ljax/models/layers.py takes here. PyTorch (channels_last) runs in a process of its
own and is left out where it is missing. A layer alone knows no fusion, so that the sum of the
layers is not the time of a net. Writes OUT.md and OUT.json.
"""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from l2ljax.apply import initialise
from l2ljax.commands.flags import run_main
from l2ljax.errors import InputError
from l2ljax.machine import describe, prepare
from l2ljax.models import make_attacker, make_classifier
from l2ljax.models.layers import convolve, patches
from l2ljax.settings import Setting, defaults
from sides import run_side
from written import command, write

FLAGS = [
    Setting("model", str, "classifier", "wrn-10-2"),
    Setting("attacker", str, "wide, slim, two_layer, lstm; empty leaves it out", "wide"),
    Setting("attacker_width", float, "its width", 0.125),
    Setting("batch_size", int, "images", 64),
    Setting("size", int, "side of the images", 32),
    Setting("channels", int, "and their channels", 3),
    Setting("threads", int, "cores for each side on a CPU", 2),
    Setting("rounds", int, "of which the median is taken", 5),
    Setting("slice_ms", int, "milliseconds of a round, at least one call", 100),
    Setting("out", str, "path of the report without its ending", "runs/layers"),
    Setting("side", str, "one side in this process: print JSON, write nothing", ""),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]

SIDES = ("lax", "patches", "torch")
PASSES = ("forward", "input", "weights")


class Layer(NamedTuple):
    """A convolution of a kernel x kernel window on size x size pixels."""

    size: int
    channels: int
    features: int
    kernel: int
    stride: int

    def __str__(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        window = f"{self.kernel}x{self.kernel}{stride}"
        return f"{window} {self.channels}-{self.features} on {self.size}x{self.size}"

    @property
    def pad(self) -> int:
        """On every side."""
        return self.kernel // 2

    @property
    def out(self) -> int:
        """Side of what comes out."""
        return (self.size + 2 * self.pad - self.kernel) // self.stride + 1


def layers_of(options: dict[str, Any]) -> Counter[Layer]:
    """The convolutions of both nets with how often each stands there."""
    found: Counter[Layer] = Counter()

    def note(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext):
        module = context.module
        if isinstance(module, nn.Conv) and context.method_name == "__call__":
            kernel, stride = (np.ravel(n)[0] for n in (module.kernel_size, module.strides or 1))
            size, channels = args[0].shape[1], args[0].shape[-1]
            found[Layer(size, channels, module.features, int(kernel), int(stride))] += 1
        return call(*args, **kwargs)

    size, channels = options["size"], options["channels"]
    nets = [(make_classifier(options["model"], 10), channels)]
    if options["attacker"]:
        width = options["attacker_width"]
        nets.append((make_attacker(options["attacker"], channels, width=width), 2 * channels))
    for net, seen in nets:
        x = jnp.zeros((2, size, size, seen))
        with nn.intercept_methods(note):
            jax.eval_shape(lambda net=net, x=x: initialise(net, jax.random.key(0), x))
    return found


def form(layer: Layer) -> str:
    """Which form the package takes on this machine."""
    x = jax.ShapeDtypeStruct((1, layer.size, layer.size, layer.channels), jnp.float32)
    shape = layer.kernel, layer.kernel, layer.channels, layer.features
    kernel = jax.ShapeDtypeStruct(shape, jnp.float32)
    program = jax.make_jaxpr(lambda x, k: _of(convolve, layer)(x, k))(x, kernel)
    return "lax" if "conv_general_dilated" in str(program) else "patches"


def _of(convolution: Callable, layer: Layer) -> Callable:
    pads = ((layer.pad, layer.pad),) * 2
    dimensions = ("NHWC", "HWIO", "NHWC")
    strides = (layer.stride, layer.stride)
    return lambda x, k: convolution(x, k, strides, pads, dimension_numbers=dimensions)


def jax_passes(layer: Layer, side: str, batch: int) -> list[Callable[[], Any]]:
    """Forward, input gradient, weight gradient."""
    if side == "lax":
        f = _of(lax.conv_general_dilated, layer)
    else:

        def f(x: jax.Array, k: jax.Array) -> jax.Array:
            return patches(x, k, layer.stride, layer.pad, layer.out, layer.out)

    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, layer.size, layer.size, layer.channels))
    shape = layer.kernel, layer.kernel, layer.channels, layer.features
    k = jax.random.normal(keys[1], shape)
    y = jax.random.normal(keys[2], (batch, layer.out, layer.out, layer.features))
    forward = jax.jit(f)
    to_input = jax.jit(lambda x, k, y: jax.vjp(lambda x: f(x, k), x)[1](y)[0])
    to_weights = jax.jit(lambda x, k, y: jax.vjp(lambda k: f(x, k), k)[1](y)[0])
    wait = jax.block_until_ready
    return [
        lambda: wait(forward(x, k)),
        lambda: wait(to_input(x, k, y)),
        lambda: wait(to_weights(x, k, y)),
    ]


def torch_passes(layer: Layer, batch: int) -> list[Callable[[], Any]]:
    """The same three in torch."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = (
        (batch, layer.channels, layer.size, layer.size),
        (layer.features, layer.channels, layer.kernel, layer.kernel),
        (batch, layer.features, layer.out, layer.out),
    )
    x, k, y = (
        torch.randn(shape, device=device).to(memory_format=torch.channels_last) for shape in shapes
    )
    strides, pads = [layer.stride] * 2, [layer.pad] * 2

    def backward(*wanted: bool) -> Any:
        done = torch.ops.aten.convolution_backward(
            y, x, k, None, strides, pads, [1, 1], False, [0, 0], 1, wanted
        )
        if device == "cuda":
            torch.cuda.synchronize()
        return done

    def forward() -> Any:
        done = torch.conv2d(x, k, None, strides, pads)
        if device == "cuda":
            torch.cuda.synchronize()
        return done

    return [forward, lambda: backward(True, False, False), lambda: backward(False, True, False)]


def milliseconds(run: Callable[[], Any], rounds: int, slice_ms: int) -> float:
    """Of a call: the median over rounds."""
    run()
    began = time.perf_counter()
    run()
    calls = max(1, int(slice_ms / 1e3 / (time.perf_counter() - began)))
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(calls):
            run()
        taken.append(1e3 * (time.perf_counter() - began) / calls)
    return float(np.median(taken))


def play(options: dict[str, Any]) -> dict[str, list[float]]:
    """One side in this process: by layer the milliseconds of its three passes."""
    side, batch = options["side"], options["batch_size"]
    if side == "torch":
        import torch

        torch.set_num_threads(options["threads"])
    found = {}
    for layer in layers_of(options):
        passes = torch_passes(layer, batch) if side == "torch" else jax_passes(layer, side, batch)
        found[str(layer)] = [
            milliseconds(run, options["rounds"], options["slice_ms"]) for run in passes
        ]
    return found


def table(rows: Sequence[dict[str, Any]], sides: Sequence[str]) -> list[list[str]]:
    """A line per layer; the last one weighs each with how often it stands there."""
    header = ["layer", "times", "ours", *(f"{p}: {' / '.join(sides)}" for p in PASSES)]
    lines, sums = [header], np.zeros((len(PASSES), len(sides) + 1))
    for row in rows:
        ms = np.array([row[side] for side in sides]).T
        sums[:, :-1] += row["times"] * ms
        sums[:, -1] += row["times"] * np.array(row[row["ours"]])
        shown = (" / ".join(f"{v:.2f}" for v in values) for values in ms)
        lines.append([row["layer"], str(row["times"]), row["ours"], *shown])
    shown = (" / ".join(f"{v:.1f}" for v in values) for values in sums[:, :-1])
    lines.append(["all", "", "", *shown])
    lines.append(["all, as ours", "", "", *(f"{v:.1f}" for v in sums[:, -1])])
    return lines


def bench(given: dict[str, Any]) -> int:
    """The sides in turn, then the table."""
    options = defaults(FLAGS) | given
    for name in ("batch_size", "size", "channels", "threads", "rounds", "slice_ms"):
        if options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    prepare(options["compilation_cache"])
    if options["side"]:
        print(json.dumps(play(options)))
        return 0
    sides = SIDES if importlib.util.find_spec("torch") else SIDES[:-1]
    cores = sorted(os.sched_getaffinity(0))[: options["threads"]]
    # Beside torch JAX only counts the layers, and leaves torch the device.
    taken = {
        side: run_side(
            __file__,
            {**given, "side": side},
            cores,
            {"JAX_PLATFORMS": "cpu"} if side == "torch" else None,
        )
        for side in sides
    }
    rows = [
        {"layer": str(layer), "times": times, "ours": form(layer)}
        | {side: taken[side][str(layer)] for side in sides}
        for layer, times in layers_of(options).items()
    ]
    made = describe()
    if "torch" in sides:
        made["torch"] = importlib.metadata.version("torch")
    report = {
        "command": command("layers.py", given),
        "options": options,
        "rows": rows,
        "made_with": made,
    }
    about = (
        f"{options['model']}, {options['batch_size']} images of {options['size']} pixels, float32, "
        f"{options['threads']} threads; milliseconds, medians of {options['rounds']} rounds."
    )
    write(options["out"], report, about, table(rows, sides))
    return 0


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("layers.py", __doc__, FLAGS, bench, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
