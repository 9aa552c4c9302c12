"""Plan a run for machines that are not here: does it fit, how long does it take, what does it cost?

    python experiments/plan.py --method=grad_l2l --dataset=cifar10 --model=wrn-34-10 \
        --batch_size=512 --bf16 --machine=h100x8
    python experiments/plan.py --methods=plain,pgm,grad_l2l --machine=v5e-4,v5e-64,v5e-256

It takes every flag of train.py. The run's own program is compiled for each machine, by XLA's
compiler for it (pip install 'l2ljax[plan-tpu]' or 'l2ljax[plan-cuda]'), and counted; nothing is
run. Without a compiler, products and arguments are counted before XLA optimises. Each number is
labelled: compiled, lowered, or estimated. Times are lower bounds from published peaks.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from l2ljax.commands.flags import figures_or_none, files_of, plugins_of, run_main
from l2ljax.commands.train import FLAGS as OF_TRAINING
from l2ljax.errors import InputError
from l2ljax.runs import settings
from l2ljax.settings import Setting, defaults

COMMAND = [
    Setting("machine", str, "machines joined by commas: v5e-4 | v6e-256 | h100 | h100x8 | ..."),
    Setting("methods", str, "methods joined by commas, instead of --method", ""),
    Setting("json", str, "a file for everything that is printed, and more"),
    Setting("picture", str, "a PNG of time, cost, memory and collectives against devices"),
    Setting("effort", ("full", "quick"), "of the compiler; quick compiles sooner", "full"),
    Setting("plan_cache", bool, "read what was compiled before from the user's cache", True),
]

LEFT_OUT = {"seeds", "workdir", "coordinator", "num_processes", "process_id", "init_timeout"}
"""Flags of a training run that say nothing about what it costs."""

OF_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",  # no question to Google's metadata server
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no lock file, which is for those who use a TPU
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # of no consequence; else it looks for one, and says so
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""What a compiler without a TPU is told before it is loaded."""

FLAGS = [*OF_TRAINING, *COMMAND]


def flags_for(argv: Sequence[str]) -> list[Setting]:
    """All flags, with those that a method or a model of the user's own takes."""
    return settings.with_plugins(FLAGS, *plugins_of(argv))


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("plan.py", __doc__, flags_for, plan, argv)


def plan(given: dict[str, Any]) -> int:
    """A plan for every method on every machine."""
    for name, value in OF_LIBTPU.items():
        os.environ.setdefault(name, value)
    import jax

    jax.config.update("jax_platforms", "cpu")  # nothing is run, and no device is to be taken
    from l2ljax.plan import make_plan

    options = defaults(COMMAND) | {k: v for k, v in given.items() if k in defaults(COMMAND)}
    machines = [name for name in (options["machine"] or "").split(",") if name]
    if not machines:
        raise InputError("--machine=NAME is needed, such as v5e-4 or h100x8")
    methods = [name for name in options["methods"].split(",") if name]
    if methods and "method" in given:
        raise InputError("--method and --methods: give one of them")
    figures = figures_or_none() if options["picture"] else None
    known = {"compilation_cache", "plots", "plugins", *LEFT_OUT, *options}
    asked = {k: v for k, v in given.items() if k not in known}
    files = files_of(defaults(OF_TRAINING) | given)
    made = []
    for method in methods or [given.get("method")]:
        for machine in machines:
            named = asked | ({"method": method} if method else {})
            how = {"effort": options["effort"], "cache": options["plan_cache"]}
            found = make_plan(named, machine, plugins=files, **how)
            made.append(found)
            print(f"{found}\n", flush=True)
    if options["json"]:
        path = pathlib.Path(options["json"])
        path.write_text(json.dumps([one.as_json() for one in made], indent=1) + "\n")
        print(f"written to {path}")
    if figures is not None:
        print(f"drew {figures.draw_plans(pathlib.Path(options['picture']), made)}")
    return 0 if all(one.fits for one in made) else 1
