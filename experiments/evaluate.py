"""Attack a trained classifier on the test set.

    python experiments/evaluate.py --workdir=runs/cifar100-grad_l2l-0 \
        --attacks=clean,fgsm,pgm10,pgm100x5

Attacks: clean; fgsm; pgmT (zero start, step eps/3 for T <= 10, else 2.5 eps/T); pgmTxR (uniform
start, R restarts, the worst of them per image); pgmT_margin; a+b (the worst of both per image);
selection (pgm10+pgm10_margin); and the protocols pgm10_v1, pgd10_l2l, pgd20_l2l, pgd100_l2l,
pgd50_10 and pgd20_madry, run at the radius they name. BatchNorm always uses running statistics.
Prints a table with 95 % Wilson intervals and writes evaluation.json, per-image results included.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from options import Flag, UsageError, check_eps, defaults, run_main
from runtime import cache_folder, describe, prepare
from saved import WHICH

FLAGS = [
    Flag("workdir", str, "the run to evaluate"),
    Flag("attacks", str, "names joined by commas", "clean,fgsm,pgm10,pgm100x5"),
    Flag("which", WHICH, "best or last epoch, theta itself or its average", "best"),
    Flag("split", ("test", "val"), "the images that are attacked", "test"),
    Flag("eps", "fraction", "radius on the [0, 1] scale; the training one"),
    Flag("num_examples", int, "the first so many images; all of them"),
    Flag("batch_size", int, "images per batch; no result depends on it", 250),
    Flag("seed", int, "seed of the random starts", 0),
    Flag("data_dir", str, "where the data set lies; the user's cache folder"),
    Flag("output", str, "the JSON to write; WORKDIR/evaluation.json"),
    Flag("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]


def evaluate(given: dict[str, Any]) -> int:
    """Restore, attack, print, write."""
    options = defaults(FLAGS) | given
    if not options["workdir"]:
        raise UsageError("--workdir=FOLDER of a run is needed")
    prepare(options["compilation_cache"])
    from l2ljax.attacks import parse_all
    from l2ljax.evaluate import Result
    from l2ljax.evaluate import evaluate as measure
    from report import attack_eps, table
    from saved import open_run, restore
    from workdir import write_json

    try:
        attacks = parse_all(options["attacks"])
    except ValueError as error:
        raise UsageError(str(error)) from None
    for name in ("batch_size", "num_examples"):
        if options[name] is not None and options[name] <= 0:
            raise UsageError(f"--{name}={options[name]} must be positive")
    workdir = pathlib.Path(options["workdir"])
    config, data, game = open_run(workdir, options["data_dir"] or str(cache_folder("data")))
    text = options["eps"] or config["eps"]
    eps = check_eps(text)
    saved = restore(workdir, options["which"], config, data, game)
    x, y = (data.x_test, data.y_test) if options["split"] == "test" else (data.x_val, data.y_val)
    n = min(options["num_examples"] or len(x), len(x))
    x, y = x[:n], y[:n]
    output = pathlib.Path(options["output"] or workdir / "evaluation.json")
    print(
        f"{workdir}: {config['method']} on {config['dataset']}, {options['which']} "
        f"(step {saved.step}), {n} {options['split']} images, eps = {text}"
    )

    def progress(name: str, done: int, total: int, standing: int) -> None:
        print(f"{name}: run {done} of {total} done, {standing} of {n} stand", file=sys.stderr)

    results: list[Result] = measure(
        jax.random.key(options["seed"]),
        game.frozen(saved.theta, saved.state.theta_stats),
        x,
        y,
        attacks,
        eps=eps,
        batch_size=min(options["batch_size"], n),
        progress=progress,
    )
    rows = [
        (r.attack, attack_eps(r.eps, eps, text), f"{r.seconds:.1f}", r.accuracy, n) for r in results
    ]
    print(table(("attack", "eps", "seconds", "accuracy"), rows))
    made_with = describe()
    write_json(
        output,
        {
            "workdir": str(workdir),
            "which": options["which"],
            "step": saved.step,
            "split": options["split"],
            "images": n,
            "seed": options["seed"],
            "config": config,
            "results": [
                {
                    "attack": r.attack,
                    "eps": attack_eps(r.eps, eps, text),
                    "accuracy": r.accuracy,
                    "seconds": r.seconds,
                    "robust": "".join("1" if stood else "0" for stood in r.robust),
                }
                for r in results
            ],
            "made_with": made_with,
        },
    )
    print(f"{made_with['device']}, jax {made_with['jax']}; written to {output}")
    return 0


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("evaluate.py", __doc__, FLAGS, evaluate, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
