r"""Attack a trained classifier on the test set.

    python experiments/evaluate.py --workdir=runs/cifar100-grad_l2l-0 \
        --attacks=clean,fgsm,pgm10,pgm100x5,autoattack

Attacks: clean; fgsm; pgmT (zero start, step eps/3 for T <= 10, else 2.5 eps/T); pgmTxR (uniform
start, R restarts, the worst of them per image); pgmT_margin, _dlr, _kl; autoattack (apgd-ce,
apgd-t, fab-t, square, each on what the ones before it left standing), autoattack_quick (the first
two: an upper bound, printed with <=), or any of the four by its name; cw100, cw_strict;
learned:WORKDIR (that run's attacker); a+b (the worst of both per image); and the protocols
pgm10_v1, pgd10_l2l, pgd20_l2l, pgd100_l2l, pgd50_10 and pgd20_madry, run at the radius they name.
BatchNorm always uses running statistics. Prints a table with 95 % Wilson intervals and writes
evaluation.json, per-image results included. SIGTERM or Ctrl-C saves what is done beside it, and
the same command goes on from there.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from l2ljax.attacks import Budget
from l2ljax.commands.flags import (
    COMPILATION_CACHE,
    DATA_DIR,
    PLUGINS,
    figures_or_none,
    files_of,
    run_main,
)
from l2ljax.errors import InputError
from l2ljax.machine import prepare
from l2ljax.runs.evaluation import RunEvaluation, evaluate_run
from l2ljax.runs.run import WHICH
from l2ljax.settings import Setting, defaults
from l2ljax.terminal import Interrupted

BUDGET = [
    Setting("apgd_steps", int, "steps of apgd-ce, apgd-dlr and of apgd-t per target", 100, "> 0"),
    Setting("fab_steps", int, "steps of fab-t per target", 100, "> 0"),
    Setting("targets", int, "targets of apgd-t and fab-t; at most the other classes", 9, "> 0"),
    Setting("square_queries", int, "queries of square", 5000, "> 0"),
]

LEARNED = [
    Setting(
        "learned_scaling",
        ("per_example_max", "frozen"),
        "learned: divide the gradient by the image's own maximum, or by a training batch's",
        "per_example_max",
    ),
    Setting(
        "learned_steps", int, "learned: steps of the inner problem; as it was trained", None, "> 0"
    ),
]

FLAGS = [
    Setting("workdir", str, "the run to evaluate"),
    Setting("attacks", str, "names joined by commas", "clean,fgsm,pgm10,pgm100x5"),
    Setting("which", WHICH, "best or last epoch, theta itself or its average", "best"),
    Setting("split", ("test", "val"), "the images that are attacked", "test"),
    Setting("norm", ("linf", "l2"), "the ball of every attack", "linf"),
    Setting("eps", "fraction", "radius on the [0, 1] scale; the training one (l_inf)"),
    Setting("num_examples", int, "the first so many images; all of them", None, "> 0"),
    Setting("batch_size", int, "images per batch; no result depends on it", 250, "> 0"),
    Setting("seed", int, "seed of the random draws", 0),
    Setting(
        "parallel",
        ("none", "sharding"),
        "one device | every batch cut over all of them; sharding where there are several",
    ),
    *BUDGET,
    *LEARNED,
    Setting("curves", bool, "accuracy against eps and against PGM steps: robustness.png", False),
    Setting(
        "masking_report", bool, "every check for gradient masking: a table, surface.png", False
    ),
    Setting("siblings", str, "masking_report: other runs on this data set, joined by commas", ""),
    Setting(
        "response_epochs", int, "masking_report: epochs of the attacker trained anew", 10, "> 0"
    ),
    Setting(
        "save_adversarials", str, "an npz for the images, their labels and what became of them"
    ),
    DATA_DIR,
    Setting("output", str, "the JSON to write; WORKDIR/evaluation.json"),
    PLUGINS,
    COMPILATION_CACHE,
]


def evaluate(given: dict[str, Any]) -> int:
    """Evaluate the run, draw, and say where it is written."""
    options = defaults(FLAGS) | given
    if not options["workdir"]:
        raise InputError("--workdir=FOLDER of a run is needed")
    prepare(options.pop("compilation_cache"))
    options["budget"] = Budget(**{flag.name: options.pop(flag.name) for flag in BUDGET})
    options["plugins"] = files_of(options)
    options["siblings"] = [name for name in options["siblings"].split(",") if name]
    options["masking"] = options.pop("masking_report")
    try:
        found = evaluate_run(**options, progress=True, say=partial(print, flush=True))
    except Interrupted as stop:
        print(f"{stop}; the same command goes on from there", file=sys.stderr)
        return stop.exit_code
    if found.curves or found.masking:
        _draw(found)
    made = found.written["made_with"]
    print(f"{made['device']}, jax {made['jax']}; written to {found.output}")
    return 0


def _draw(found: RunEvaluation) -> None:
    figures = figures_or_none()
    if figures is None:
        return
    config, eps = found.run.config, found.evaluation.eps
    method, run = config["method"], f"{config['method']} on {config['dataset']}"
    if found.curves:
        path = found.output.with_name("robustness.png")
        print(f"drew {figures.draw_robustness(path, {method: found.curves}, run)}")
    if found.masking:
        path, title = found.output.with_name("surface.png"), f"The loss around test images: {run}"
        surface, labels = found.masking.surface(), found.masking.subject.y
        names = [found.run.game.data.class_names[int(y)] for y in labels[: len(surface.loss)]]
        print(f"drew {figures.draw_surfaces(path, {'': surface}, title, eps=eps, names=names)}")


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("evaluate.py", __doc__, FLAGS, evaluate, argv)
