"""What a training step costs: milliseconds, and the FLOPs of its passes, as ratios to Plain's.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --dataset=cifar10 --data_dir=DIR --attacker=slim --batch_size=64

Writes OUT.md and OUT.json as well. The methods are timed in turn and each ratio is taken within
one round, so that whatever else the machine does falls on all of them. FLOPs are XLA's count of the
compiled, unrolled program; a loop's body would be counted once, so where the inner loops stay loops
(GPU, TPU) a process of its own counts on the CPU. The count can lie below
the floor of passes, because a forward pass over the clean images is computed once for all users.
"""

import json
import math
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import numpy as np

from l2ljax.commands.flags import run_main
from l2ljax.data import Dataset, load
from l2ljax.errors import InputError
from l2ljax.machine import cache_folder, describe, prepare
from l2ljax.methods import METHODS, method_settings
from l2ljax.models import label
from l2ljax.runs.config import Config, resolve, write_json
from l2ljax.runs.feed import Feed
from l2ljax.runs.from_config import game_of
from l2ljax.runs.recipes import base
from l2ljax.runs.settings import COMMON, METHOD_NAMES
from l2ljax.runs.settings import table as table_of_settings
from l2ljax.settings import Setting, defaults
from l2ljax.terminal import align, markdown
from passes import count_passes, floor, paper_ratio, write_out

SETTINGS = ("dataset", "model", "attacker", "attacker_width", "batch_size", "order")
"""The deciding flags that this script takes; the rest is the recipe's."""


def flags_of(names: Sequence[str]) -> list[Setting]:
    """The flags of those settings of a training run."""
    return [setting for setting in table_of_settings() if setting.name in names]


FLAGS = [
    *flags_of(SETTINGS),
    Setting(
        "methods", str, "methods joined by commas; Plain is always among them", ",".join(METHODS)
    ),
    Setting("repeats", int, "rounds, each of a slice of every method", 20),
    Setting(
        "slice_ms", float, "milliseconds that a method's slice of a round takes at least", 200.0
    ),
    Setting("out", str, "path of the report without its ending", "runs/step_cost"),
    Setting("data_dir", str, "where the data set lies; the user's cache folder"),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
    Setting("count_only", bool, "print the FLOPs as JSON and measure nothing", False),
]

LIMITS = {False: 1.3, True: 1.6}
"""What measured over counted may be on a CPU, without and with a learned attacker."""


class Program(NamedTuple):
    """A method's compiled training step, and `run`: so many steps -> seconds."""

    compiled: Any
    run: Callable[[int], float]

    @property
    def flops(self) -> float:
        """XLA's count for one step; right only where the inner loops are unrolled."""
        return float(self.compiled.cost_analysis()["flops"])


def build(config: Config, data: Dataset) -> Program:
    """The step of a configuration, compiled once, on a state of its own."""
    game = game_of(config, data)
    state = game.init(0)
    feed = Feed(data, 0, layout=game.layout, batch_size=game.batch_size)
    n, rest = next(feed.epoch(0, 0))
    compiled = game.program(n, state, *rest)

    def run(steps: int) -> float:
        nonlocal state
        began = time.perf_counter()
        for _ in range(steps):
            state, _ = compiled(state, *rest)
        jax.block_until_ready(state)
        return time.perf_counter() - began

    return Program(compiled, run)


def convolutions_in_loops(hlo: str) -> list[str]:
    """The convolutions that an HLO text has inside a while loop, however deep, by name."""
    bodies: dict[str, str] = {}
    for part in re.split(r"^(?=(?:ENTRY )?%[\w.-]+ \()", hlo, flags=re.MULTILINE)[1:]:
        bodies[part.partition("%")[2].partition(" ")[0]] = part

    def named(attributes: str, text: str) -> list[str]:
        groups = re.findall(rf"\b(?:{attributes})=(\{{[^}}]*\}}|%[\w.-]+)", text)
        return re.findall(r"%([\w.-]+)", " ".join(groups))

    inside: set[str] = set()
    waiting = named("body", hlo)
    while waiting:
        name = waiting.pop()
        if name not in inside:
            inside.add(name)
            waiting += named(r"body|condition|calls|to_apply|\w+_computations?", bodies[name])
    text = "".join(bodies[name] for name in sorted(inside))
    kinds = r"(?:convolution\(|custom-call\(.*custom_call_target=\"[^\"]*conv)"
    return re.findall(rf"^ *(?:ROOT )?%([\w.-]+) = .* {kinds}", text, flags=re.MULTILINE)


def time_in_turn(
    runs: dict[str, Callable[[int], float]], repeats: int, slice_ms: float
) -> dict[str, list[float]]:
    """Milliseconds per step by method, one entry a round; warm-up sets the steps of a slice."""
    steps = {}
    for name, run in runs.items():
        run(2)
        steps[name] = max(2, math.ceil(slice_ms / 1e3 / (run(2) / 2)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(1e3 * run(steps[name]) / steps[name])
    return times


def compare(
    times: dict[str, list[float]], flops: dict[str, float], configs: Mapping[str, Config]
) -> dict[str, dict[str, Any]]:
    """Each method's time and FLOPs over Plain's, and whether the first follows the second.

    `measured` is the median over rounds of the ratio within a round; the verdict is ok where it is
    at most LIMITS times `counted`.
    """
    results = {}
    for name, ms in times.items():
        measured = _quartiles(np.divide(ms, times["plain"]))
        counted = flops[name] / flops["plain"]
        over, limit = measured["median"] / counted, LIMITS["order" in method_settings(name)]
        passes = count_passes(configs[name])
        results[name] = {
            "ms": _quartiles(ms),
            "flops": flops[name],
            "measured": measured,
            "counted": counted,
            "measured_over_counted": over,
            "limit": limit,
            "verdict": "ok" if over <= limit else "over",
            "passes": write_out(passes),
            "floor": floor(passes),
            "paper": paper_ratio(configs[name]),
        }
    return results


def _quartiles(values: Any) -> dict[str, float]:
    names = ("min", "q25", "median", "q75")
    return dict(zip(names, map(float, np.percentile(values, (0, 25, 50, 75))), strict=True))


HEADER: str = (
    "method|ms/step (quartiles)|over Plain (quartiles)|counted|measured/counted|limit|verdict"
    "|passes|floor|paper (GTX 1080 Ti, WRN-34-4)"
)


def show(results: dict[str, dict[str, Any]]) -> str:
    """The table; counted, floor and the paper's column are over Plain's too."""
    lines = [HEADER.split("|")]
    for name, r in results.items():
        times = [
            f"{q['median']:.2f} ({q['q25']:.2f}-{q['q75']:.2f})" for q in (r["ms"], r["measured"])
        ]
        ratios = [f"{r['counted']:.2f}", f"{r['measured_over_counted']:.2f}", f"{r['limit']}"]
        paper = f"{r['paper']:.2f}" if r["paper"] else "-"
        needs = [r["verdict"], r["passes"], f"{r['floor']:.2f}", paper]
        lines.append([name, *times, *ratios, *needs])
    return align(lines)


def page_table(results: dict[str, dict[str, Any]]) -> str:
    """The same for a page: without quartiles, with what was quoted from the paper at the end."""
    header = "method|ms per step|over Plain|FLOPs over Plain's|measured / counted|passes|floor"
    lines = [[*header.split("|"), "the paper's Table 4"]]
    for name, r in results.items():
        ratios = (r["counted"], r["measured_over_counted"])
        times = f"{r['ms']['median']:.1f}", f"{r['measured']['median']:.2f}"
        needs = r["passes"], f"{r['floor']:.2f}", f"{r['paper']:.2f}" if r["paper"] else ""
        lines.append([f"`{name}`", *times, *(f"{ratio:.2f}" for ratio in ratios), *needs])
    return markdown(lines)


def page(report: dict[str, Any], command: str) -> str:
    """OUT.md."""
    results, made = report["methods"], report["made_with"]
    plain = results["plain"]["config"]
    attacker = label(plain["attacker"], plain["attacker_width"])
    looped = [name for name, r in results.items() if r["convolutions_in_loops"]]
    return (
        f"Measured here: `{command}`\n\n"
        f"{made['device']}, {made['cores']} cores, jax {made['jax']}, commit {made['commit']}. "
        f"{plain['dataset']}, {plain['model']}, attacker {attacker}, batch {plain['batch_size']}; "
        f"medians of {report['options']['repeats']} rounds in which the methods take turns. "
        "F forward, I backward to the input alone, B full backward, D the derivative of an input "
        "gradient by theta, all of the classifier; f, b the attacker's. floor: F + I + 2 B + 4 D "
        "over Plain's 3. The last column is quoted (GTX 1080 Ti, WRN-34-4).\n\n"
        f"{page_table(results)}\n\nConvolutions inside a loop: {', '.join(looped) or 'none'}.\n"
    )


def alike(method: str, settings: dict[str, Any]) -> Config:
    """One game for all, not the recipe tuned for each: only what makes the method is its own."""
    small = {"model": "wrn-10-2", "attacker_width": 0.125}
    flags = base.FLAGS | small | base.METHOD.get(method, {})
    own = method_settings(method) if method in METHODS else {}
    foreign = METHOD_NAMES - set(own) - {setting.name for setting in COMMON}
    flags = {n: v for n, v in (flags | settings).items() if n not in foreign}
    return resolve(flags | {"method": method})


def bench(given: dict[str, Any]) -> int:
    """Compile, count, time, print, write."""
    options = defaults(FLAGS) | given
    names = list(dict.fromkeys(["plain", *filter(None, options["methods"].split(","))]))
    settings = {name: given[name] for name in SETTINGS if name in given}
    configs = {name: alike(name, settings) for name in names}
    for name in ("repeats", "slice_ms"):
        if options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    out = pathlib.Path(options["out"])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out={out} cannot be written: {error.strerror}") from None
    prepare(options["compilation_cache"])
    data_dir = options["data_dir"] or str(cache_folder("data"))
    data = load(configs["plain"]["dataset"], data_dir=data_dir)
    programs = {name: build(config, data) for name, config in configs.items()}
    if options["count_only"]:
        print(json.dumps({name: program.flops for name, program in programs.items()}))
        return 0
    on_cpu = jax.default_backend() == "cpu"
    flops = {n: p.flops for n, p in programs.items()} if on_cpu else count_on_cpu(given)
    runs = {name: program.run for name, program in programs.items()}
    results = compare(time_in_turn(runs, options["repeats"], options["slice_ms"]), flops, configs)
    for name, program in programs.items():
        results[name]["convolutions_in_loops"] = convolutions_in_loops(program.compiled.as_text())
        results[name]["config"] = configs[name]
    plain = configs["plain"]
    attacker = label(plain["attacker"], plain["attacker_width"])
    print(f"{data.name}, {plain['model']}, attacker {attacker}, batch {plain['batch_size']}")
    print(show(results))
    looped = [name for name in names if results[name]["convolutions_in_loops"]]
    print(f"convolutions inside a loop: {', '.join(looped) or 'none'}")
    kept = {name: value for name, value in options.items() if name != "data_dir"}
    report = {"methods": results, "options": kept, "made_with": describe()}
    shown = " ".join(f"--{n}={v}" for n, v in given.items() if n != "data_dir")
    write_json(out.with_suffix(".json"), report)
    out.with_suffix(".md").write_text(page(report, f"python benchmarks/step_cost.py {shown}"))
    print(f"written to {out}.md and {out}.json")
    return 0


def count_on_cpu(given: dict[str, Any]) -> dict[str, float]:
    """FLOPs by method from a process that has only the CPU, where every inner loop is unrolled."""
    flags = [f"--{name}={value}" for name, value in {**given, "count_only": True}.items()]
    done = subprocess.run(
        [sys.executable, str(pathlib.Path(__file__).resolve()), *flags],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("step_cost.py", __doc__, FLAGS, bench, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
