"""One step on 1, 2, 4, 8 devices: the same batch over all (strong), a batch for each (weak).

    python benchmarks/scaling.py --devices=1,2,4,8 --method=grad_l2l
    python benchmarks/scaling.py --model=wrn-34-4 --bf16 --batch_size=256 --dataset=cifar10

Every number of devices is a process of its own that sees only so many: those of the accelerator, or
of a CPU that is divided for it, where nothing gets faster and the table shows what the collectives
cost. Their share is out of a trace of ten steps. The seconds of a
collective include waiting for the slowest device. Writes OUT.md and OUT.json.
"""

import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from l2ljax.commands.flags import run_main
from l2ljax.data import load
from l2ljax.errors import InputError
from l2ljax.machine import STEPS, Trace, cache_folder, describe, prepare
from l2ljax.runs.feed import Feed
from l2ljax.runs.from_config import game_of, layout_of
from l2ljax.settings import Setting, defaults
from sides import run_side
from step_cost import alike, flags_of
from written import command, write

SETTINGS = ("dataset", "model", "attacker", "attacker_width", "batch_size", "bf16", "method")
"""The deciding flags that this script takes."""

FLAGS = [
    *flags_of(SETTINGS),
    Setting("devices", str, "numbers of devices; all are compared with the first", "1,2,4,8"),
    Setting("layouts", str, "of several devices: pmap,sharding", "pmap,sharding"),
    Setting("steps", int, "steps that are timed, a round", 10),
    Setting("rounds", int, "rounds", 5),
    Setting("out", str, "path of the report without its ending", "runs/scaling"),
    Setting("data_dir", str, "where the data set lies; the user's cache folder"),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
    Setting("child", str, "measure in this process: the layout", ""),
]


def time_step(options: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds per step in this process's devices, and the collectives' share of busy time."""
    settings = {n: given[n] for n in SETTINGS if n in given and n != "method"}
    config = alike(options["method"], settings)
    data = load(config["dataset"], data_dir=options["data_dir"] or str(cache_folder("data")))
    game = game_of(config, data, layout_of(config, options["child"]))
    state = game.layout.replicate(game.init(0))
    feed = Feed(data, 0, layout=game.layout, batch_size=game.batch_size)
    n, arguments = next(feed.epoch(0, 0))
    program = game.program(n, state, *arguments)

    def run(steps: int) -> float:
        nonlocal state
        began = time.perf_counter()
        for _ in range(steps):
            state, _ = program(state, *arguments)
        jax.block_until_ready(state)
        return 1e3 * (time.perf_counter() - began) / steps

    run(2)
    ms = [run(options["steps"]) for _ in range(options["rounds"])]
    with tempfile.TemporaryDirectory() as folder:
        trace = Trace(pathlib.Path(folder))
        trace.start()
        run(STEPS)
        trace.stop()
    shares = trace.shares(program)
    collectives = sum(share for (_, what), share in shares.items() if what == "collective")
    batch = config["batch_size"]
    return {"ms": ms, "collectives": collectives, "batch": batch, "made_with": describe()}


def measure(count: int, layout: str, batch: int, given: dict[str, Any]) -> dict[str, Any]:
    """The same in a process that has so many devices."""
    given = {**given, "batch_size": batch, "child": layout}
    environment = {}
    if jax.default_backend() == "cpu":
        flags = os.environ.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}"
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(count)))
    return run_side(__file__, given, environment=environment)


def bench(given: dict[str, Any]) -> int:
    """Every number of devices in every layout, strong and weak."""
    options = defaults(FLAGS) | {"method": "grad_l2l", "batch_size": 128} | given
    if options["child"]:
        prepare(options["compilation_cache"])
        print(json.dumps(time_step(options, {**given, "batch_size": options["batch_size"]})))
        return 0
    for name in ("steps", "rounds"):
        if options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    counts = _counts(options["devices"])
    rows = []
    for kind in ("strong", "weak"):
        for count in counts:
            for layout in ["none"] if count == 1 else options["layouts"].split(","):
                batch = options["batch_size"] * (count if kind == "weak" else 1)
                found = measure(count, layout, batch, given)
                rows.append({"kind": kind, "devices": count, "layout": layout, **found})
                print(
                    f"{kind}, {count} devices, {layout}: {np.median(found['ms']):.1f} ms per step"
                )
    config = alike(options["method"], {n: v for n, v in given.items() if n in SETTINGS[:-1]})
    report = {
        "command": command("scaling.py", given),
        "config": config,
        "rows": rows,
        "made_with": rows[0]["made_with"],
    }
    about = (
        f"{config['method']}, {config['model']}, {config['dataset']}. Medians; collectives: their "
        "share of busy time, waiting included."
    )
    write(options["out"], report, about, table(rows))
    return 0


def _counts(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise InputError(f"--devices={text} is no list of numbers such as 1,2,4,8")
    counts = [int(word) for word in words]
    visible = jax.device_count()
    if jax.default_backend() != "cpu" and max(counts) > visible:
        raise InputError(f"--devices={text}: only {visible} are visible")
    return counts


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line per measurement; images per second are over those of the first number of devices."""
    lines = ["kind|devices|layout|batch|ms per step|images per second|over the first|collectives"]
    lines = [lines[0].split("|")]
    first: dict[str, float] = {}
    for row in rows:
        ms = float(np.median(row["ms"]))
        rate = 1e3 * row["batch"] / ms
        over = rate / first.setdefault(row["kind"], rate)
        numbers = f"{ms:.1f}", f"{rate:.0f}", f"{over:.2f}", f"{100 * row['collectives']:.1f} %"
        where = row["kind"], str(row["devices"]), row["layout"], str(row["batch"])
        lines.append([*where, *numbers])
    return lines


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("scaling.py", __doc__, FLAGS, bench, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
