"""Train a robust classifier by learning to attack.

    python experiments/train.py --method=grad_l2l --dataset=cifar100
    python experiments/train.py --method=pgm --dataset=digits --seeds=0,1,2
    python experiments/train.py --method=mine.py:momentum_l2l --momentum=0.9

The same command again resumes an interrupted run; Ctrl-C and SIGTERM save first. Without --recipe,
CIFAR and SVHN take the settings of the authors' code and digits those of `quick`; every flag of
the run is printed. Writes to runs/DATASET-METHOD-SEED: config.json, data.json, metrics.jsonl,
summary.json, checkpoints/, tensorboard/, curves.png and, for a learned attacker, attacker.png.
"""

import sys
from collections.abc import Sequence
from typing import Any

from l2ljax.commands.flags import (
    COMPILATION_CACHE,
    PLUGINS,
    files_of,
    numbers,
    plugins_of,
    run_main,
)
from l2ljax.hosts import HOSTS, Together, join
from l2ljax.runs import settings
from l2ljax.settings import Setting, defaults

COMMAND = [
    Setting("seeds", str, "one run for each of these seeds, as 0,1,2", "0"),
    Setting("workdir", str, "where the run is written; with several seeds, one folder each inside"),
    PLUGINS,
    Setting("plots", bool, "draw curves.png at the end (extra: plots)", True),
    COMPILATION_CACHE,
    *HOSTS,
]

FLAGS = [*settings.table(), *settings.OPTIONS, *COMMAND]


def flags_for(argv: Sequence[str]) -> list[Setting]:
    """All flags, with those that a method or a model of the user's own takes."""
    return settings.with_plugins(FLAGS, *plugins_of(argv))


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("train.py", __doc__, flags_for, train, argv)


def train(given: dict[str, Any]) -> int:
    """One run for every seed."""
    from l2ljax.commands.flags import figures_or_none
    from l2ljax.machine import prepare
    from l2ljax.runs.run import Run
    from l2ljax.runs.summary import show_summary
    from l2ljax.runs.train import train_seeds
    from l2ljax.terminal import Interrupted

    options = defaults(COMMAND) | {k: v for k, v in given.items() if k in defaults(COMMAND)}
    seeds = numbers("seeds", options["seeds"])
    prepare(options["compilation_cache"])
    join(options)

    def show(run: Run) -> None:
        print(show_summary(run.summary))
        for line in run.summary["warnings"]:
            print(f"warning: {line}", file=sys.stderr)
        print(f"written to {run.workdir}")
        figures = figures_or_none() if options["plots"] else None
        for picture in (
            figures.draw_run(run.workdir, run.game.method.selects) if figures is not None else ()
        ):
            print(f"drew {picture}")

    with Together():
        try:
            train_seeds(
                seeds,
                workdir=options["workdir"],
                plugins=files_of(options),
                progress=True,
                on_end=show,
                **{k: v for k, v in given.items() if k not in options},
            )
        except Interrupted as stop:
            print(f"{stop}; the same command resumes it", file=sys.stderr)
            return stop.exit_code
    return 0
