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
from typing import Any

from l2ljax.commands.flags import run_main
from l2ljax.errors import InputError
from l2ljax.machine import cache_folder, describe, prepare
from l2ljax.runs.saved import WHICH
from l2ljax.settings import Setting, defaults

BUDGET = [
    Setting("apgd_steps", int, "steps of apgd-ce, apgd-dlr and of apgd-t per target", 100),
    Setting("fab_steps", int, "steps of fab-t per target", 100),
    Setting("targets", int, "targets of apgd-t and fab-t; at most the other classes", 9),
    Setting("square_queries", int, "queries of square", 5000),
]

LEARNED = [
    Setting(
        "learned_scaling",
        ("per_example_max", "frozen"),
        "learned: divide the gradient by the image's own maximum, or by a training batch's",
        "per_example_max",
    ),
    Setting("learned_steps", int, "learned: steps of the inner problem; as it was trained"),
]

FLAGS = [
    Setting("workdir", str, "the run to evaluate"),
    Setting("attacks", str, "names joined by commas", "clean,fgsm,pgm10,pgm100x5"),
    Setting("which", WHICH, "best or last epoch, theta itself or its average", "best"),
    Setting("split", ("test", "val"), "the images that are attacked", "test"),
    Setting("norm", ("linf", "l2"), "the ball of every attack", "linf"),
    Setting("eps", "fraction", "radius on the [0, 1] scale; the training one (l_inf)"),
    Setting("num_examples", int, "the first so many images; all of them"),
    Setting("batch_size", int, "images per batch; no result depends on it", 250),
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
    Setting("response_epochs", int, "masking_report: epochs of the attacker trained anew", 10),
    Setting(
        "save_adversarials", str, "an npz for the images, their labels and what became of them"
    ),
    Setting("data_dir", str, "where the data set lies; the user's cache folder"),
    Setting("output", str, "the JSON to write; WORKDIR/evaluation.json"),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]


def evaluate(given: dict[str, Any]) -> int:
    """Restore, attack, print, write."""
    options = defaults(FLAGS) | given
    if not options["workdir"]:
        raise InputError("--workdir=FOLDER of a run is needed")
    counts = ("batch_size", "num_examples", "response_epochs", *(flag.name for flag in BUDGET))
    for name in counts:
        if options[name] is not None and options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    prepare(options["compilation_cache"])
    from l2ljax.attacks import Budget
    from l2ljax.evaluation.suite import after_warnings, measure, warnings
    from l2ljax.evaluation.tables import show_results
    from l2ljax.evaluation.unfinished import Unfinished
    from l2ljax.parallel import evaluation_layout
    from l2ljax.runs.evaluation import (
        as_json,
        look_for_masking,
        open_evaluation,
        save_images,
        trace_curves,
    )
    from l2ljax.runs.workdir import write_json
    from l2ljax.signals import Interrupted

    budget = Budget(**{flag.name: options[flag.name] for flag in BUDGET})
    data_dir = options["data_dir"] or str(cache_folder("data"))
    e = open_evaluation(options, budget, data_dir)
    print(
        f"{options['workdir']}: {e.saved.config['method']} on {e.saved.config['dataset']}, "
        f"{options['which']} (step {e.saved.step}), {len(e.x)} {options['split']} images, "
        f"{options['norm']} ball of eps = {e.text}",
        flush=True,
    )
    for line in warnings(e.f, e.x, e.y, e.attacks, options["batch_size"]):
        print(f"warning: {line}", file=sys.stderr)
    unfinished = Unfinished(e.output.with_suffix(".unfinished"), e.identity())
    try:
        results = measure(
            e.f,
            e.x,
            e.y,
            e.attacks,
            eps=e.eps,
            norm=options["norm"],
            batch_size=options["batch_size"],
            layout=evaluation_layout(options["parallel"]),
            seed=options["seed"],
            keep=bool(options["save_adversarials"]),
            unfinished=unfinished,
        )
    except Interrupted as stop:
        print(f"{stop}; the same command goes on from there", file=sys.stderr)
        return stop.exit_code
    print(show_results(results, e.eps, e.text, options["norm"]))
    for line in after_warnings(results):
        print(f"warning: {line}", file=sys.stderr)
    written = as_json(e, results)
    if options["curves"]:
        written["curves"] = trace_curves(e)
    if options["masking_report"]:
        written["masking"] = look_for_masking(e, results, data_dir)
    written["made_with"] = describe()
    write_json(e.output, written)
    print(
        f"{written['made_with']['device']}, jax {written['made_with']['jax']}; "
        f"written to {e.output}"
    )
    if options["save_adversarials"]:
        print(f"adversarial images in {save_images(e, results)}")
    unfinished.remove()
    return 0


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("evaluate.py", __doc__, FLAGS, evaluate, argv)
