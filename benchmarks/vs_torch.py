# pyright: reportMissingImports=false
"""A training step beside the same step in plain PyTorch: the same weights, processes in turn.

    pip install -e '.[crosscheck]'
    python benchmarks/vs_torch.py --models=wrn-10-1 --batch_size=64 --attacker_width=0.125
    python benchmarks/vs_torch.py --models=wrn-34-4,preact_resnet18 --bf16

First the gradients of a step are compared on eight images in float64: unless they are equal no time
is taken. Their difference in true float32 is shown beside it and cannot be a bound: a ReLU whose
input is a rounding away from 0 passes on one side only. Then every side runs in a process of its
own, in turn, and a ratio is taken within a round, so that whatever else the machine does falls on
all. On a GPU torch has channels_last, AMP and, as the side `compiled`, torch.compile; on a CPU
channels_last and `--threads`. Images are random. Torch must not share its
threads with JAX, or it is ten times slower. Writes OUT.md and OUT.json.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
import optax

from l2ljax.commands.flags import run_main
from l2ljax.errors import InputError
from l2ljax.runs.config import Config
from l2ljax.settings import Setting, defaults, fraction, step_size
from sides import run_side
from step_cost import alike, flags_of
from written import command, write

SETTINGS = ("attacker", "attacker_width", "batch_size", "bf16")
"""The deciding flags that this script takes."""

METHODS = "plain,pgm,grad_l2l,two_step_l2l"

FLAGS = [
    *flags_of(SETTINGS),
    Setting("methods", str, f"some of {METHODS}", METHODS),
    Setting("models", str, "wrn-D-K and the two preact_resnet18, joined by commas", "wrn-10-1"),
    Setting("sides", str, "ours, eager and compiled; on a CPU ours,eager"),
    Setting("size", int, "side of the random images", 32),
    Setting("channels", int, "and their channels", 3),
    Setting("threads", int, "cores for each side on a CPU", 2),
    Setting("steps", int, "steps of a round", 10),
    Setting("rounds", int, "processes of each side", 3),
    Setting("bound", float, "what gradients may differ by, over a tensor's largest entry", 1e-5),
    Setting("out", str, "path of the report without its ending", "runs/vs_torch"),
    Setting("side", str, "one side in this process: print JSON, write nothing", ""),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]


def configuration_of(options: dict[str, Any], model: str, method: str) -> Config:
    """The same game for both sides, the inner problem without chance."""
    settings = {n: options[n] for n in SETTINGS if options[n] is not None}
    config = alike(method, settings | {"model": model})
    start = "zero" if config["attacker_start"] else None
    return config | {"attacker_start": start}


def players(config: Config, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(JAX's state, f, g) with the same weights; f and g are torch modules."""
    import torch_nets
    from l2ljax.runs.from_config import game_of
    from mfu import random_images

    data = random_images(config["batch_size"], options["size"], options["channels"])
    game = game_of(config, data)
    state = game.init(0)
    f = torch_nets.classifier(config["model"], state.theta, state.theta_stats, data.mean, data.std)
    g = torch_nets.attacker(state.phi, state.phi_stats) if game.method.learns else None
    return (game, data, state), f, g


def torch_step(config: Config, f: Any, g: Any):
    """The step in torch."""
    import torch_steps
    from l2ljax.ball import length

    eps = fraction(config["eps"])
    size = float(length(step_size(config["inner_step"] or "0"), eps))
    return torch_steps.make_step(config, f, g, eps, size)


def _no_move(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    return optax.tree.zeros_like(updates), updates


KEEP = optax.GradientTransformation(lambda params: optax.tree.zeros_like(params), _no_move)
"""An optimiser that moves nobody and shows the gradient that it was given."""


def differences(config: Config, options: dict[str, Any], wide: bool) -> dict[str, float]:
    """By player the largest difference of a gradient over the largest entry of its tensor.

    Ours in float64 if `wide`, else in true float32; torch's in float64, because in float32 on a CPU
    its own gradients of an attacker are off by up to 1e-2. Biases before a BatchNorm are left out:
    their true gradient is zero.
    """
    import jax

    with jax.enable_x64(wide):
        return _differences(config, options)


def _differences(config: Config, options: dict[str, Any]) -> dict[str, float]:
    import jax
    import jax.numpy as jnp
    import torch

    from l2ljax.ball import scale
    from l2ljax.bilevel import make_step
    from official.twin import as_torch, named

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    config = config | {"bf16": False, "batch_size": 8}
    (game, data, state), f, g = players(config, options)
    # The very same pixels for both: signs make a step feel the last bit of an image.
    x = np.asarray(scale(jnp.asarray(data.x_train))).astype(jnp.result_type(float))
    y = data.y_train
    # A loop hands statistics on, and they have to go in as wide as they come out.
    wide = jax.tree.map(lambda a: a.astype(x.dtype), (state.theta_stats, state.phi_stats))
    state = state._replace(theta_stats=wide[0], phi_stats=wide[1])
    state = state._replace(opt_theta=KEEP.init(state.theta), opt_phi=KEEP.init(state.phi))
    step = make_step(game.apply, game.method, KEEP, KEEP, eps=game.eps, craft_bn=config["craft_bn"])
    with jax.default_matmul_precision("highest"):
        after, _ = jax.jit(step)(state, (x, y), jax.random.key(0))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    f, g = f.to(device).double(), g.to(device).double() if g is not None else None
    x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).to(device).double()
    y = torch.from_numpy(y).long().to(device)
    torch_step(config, f, g)(x, y, move=False)
    found = {}
    for player, module, opt, sign in (
        ("theta", f, after.opt_theta, 1),
        ("phi", g, after.opt_phi, -1),
    ):
        if module is None:
            continue
        worst = 0.0
        for name, value in named(opt, {"batch_stats": {}}):
            theirs = module.get_parameter(name).grad.cpu().numpy()
            ours = sign * as_torch(value).reshape(theirs.shape)
            if player == "phi" and name.endswith("bias") and not name.startswith("conv_out"):
                continue
            worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
        found[player] = worst
    return found


def time_torch(config: Config, options: dict[str, Any], compiled: bool) -> list[float]:
    """Milliseconds per step of torch, a number for each of three slices."""
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(options["threads"])
    (_, data, _), f, g = players(config, options)
    device, layout = "cuda" if on_gpu else "cpu", torch.channels_last
    f = f.to(device, memory_format=layout)
    g = g if g is None else g.to(device, memory_format=layout)
    if compiled:
        f, g = torch.compile(f), g if g is None else torch.compile(g)
    step = torch_step(config, f, g)
    x = torch.from_numpy(data.x_train.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    x = x.to(device, memory_format=layout)
    y = torch.from_numpy(data.y_train).long().to(device)

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            step(x, y)
        if on_gpu:
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - began) / steps

    run(3)
    return [run(options["steps"]) for _ in range(3)]


def play(options: dict[str, Any]) -> dict[str, Any]:
    """One side, every model and method, in this process."""
    from mfu import measure

    side, found = options["side"], {}
    for model in options["models"].split(","):
        for method in options["methods"].split(","):
            config = configuration_of(options, model, method)
            if side == "check":
                found_by = {"float64": True, "float32": False}
                result = {n: differences(config, options, w) for n, w in found_by.items()}
            elif side == "ours":
                result = measure(config, options | {"rounds": 3})["ms"]
            else:
                result = time_torch(config, options, compiled=side == "compiled")
            found[f"{model} {method}"] = result
    return found


def compare(given: dict[str, Any]) -> int:
    """Check the gradients, take turns, write."""
    options = defaults(FLAGS) | given
    for name in ("steps", "rounds", "threads", "size", "channels"):
        if options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    for method in options["methods"].split(","):
        if method not in METHODS.split(","):
            raise InputError(f"--methods={method} has no writing in torch: {METHODS} have")
    try:
        import torch
    except ImportError:
        raise InputError("torch is missing: pip install -e '.[crosscheck]'") from None
    from l2ljax.machine import prepare

    prepare(options["compilation_cache"])
    if options["side"]:
        print(json.dumps(play(options)))
        return 0
    on_gpu = torch.cuda.is_available()
    sides = (options["sides"] or ("ours,eager,compiled" if on_gpu else "ours,eager")).split(",")
    cores = sorted(os.sched_getaffinity(0))
    cores = cores if on_gpu else cores[: options["threads"]]

    def run(side: str) -> Any:
        # Beside torch JAX makes the weights and leaves torch the device.
        environment = None if side == "ours" else {"JAX_PLATFORMS": "cpu"}
        return run_side(__file__, given | {"side": side}, cores, environment)

    checked = run("check")
    for what, widths in checked.items():
        for width, found in widths.items():
            shown = ", ".join(f"{player} {worst:.1e}" for player, worst in found.items())
            print(f"gradients of {what} in {width} differ by at most {shown}", flush=True)
        if max(widths["float64"].values()) > options["bound"]:
            raise InputError(f"{what}: the two writings differ by more than {options['bound']}")
    rounds: list[dict[str, Any]] = []
    for number in range(options["rounds"]):
        turn = sides if number % 2 == 0 else sides[::-1]
        rounds.append({side: run(side) for side in turn})
        print(f"round {number + 1} of {options['rounds']}", flush=True)
    return _write(options, given, sides, checked, rounds)


def _write(options, given, sides, checked, rounds) -> int:
    import torch

    from l2ljax.machine import describe

    report = {
        "command": command("vs_torch.py", given),
        "options": options,
        "gradients": checked,
        "rounds": rounds,
        "made_with": describe() | {"torch": torch.__version__},
    }
    about = (
        f"Random images of {options['size']} pixels; processes in turn, {len(rounds)} rounds; "
        "milliseconds are medians, a ratio is the median over rounds of ours over torch's; "
        "gradients: the largest difference over a tensor's largest entry, in float64 and float32."
    )
    write(options["out"], report, about, table(sides, checked, rounds))
    return 0


def table(sides: Sequence[str], checked: dict, rounds: Sequence[dict]) -> list[list[str]]:
    """A line per model and method."""
    others = [side for side in sides if side != "ours"]
    header = ["model", "method", "gradients", "in float32", *(f"{side} ms" for side in sides)]
    lines = [[*header, *(f"ours / {side}" for side in others)]]
    for what, widths in checked.items():
        ms = {side: [float(np.median(r[side][what])) for r in rounds] for side in sides}
        times = [f"{np.median(ms[side]):.1f}" for side in sides]
        ratios = [f"{np.median(np.divide(ms['ours'], ms[side])):.2f}" for side in others]
        differ = [f"{max(found.values()):.0e}" for found in widths.values()]
        lines.append([*what.split(" "), *differ, *times, *(ratios if "ours" in ms else [])])
    return lines


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("vs_torch.py", __doc__, FLAGS, compare, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
