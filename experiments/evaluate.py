"""Attack a trained classifier on the test set.

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

import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from options import Flag, UsageError, check_eps, defaults, run_main
from runtime import cache_folder, describe, prepare
from saved import WHICH

BUDGET = [
    Flag("apgd_steps", int, "steps of apgd-ce, apgd-dlr and of apgd-t per target", 100),
    Flag("fab_steps", int, "steps of fab-t per target", 100),
    Flag("targets", int, "targets of apgd-t and fab-t; at most the other classes", 9),
    Flag("square_queries", int, "queries of square", 5000),
]

LEARNED = [
    Flag(
        "learned_scaling",
        ("per_example_max", "frozen"),
        "learned: divide the gradient by the image's own maximum, or by a training batch's",
        "per_example_max",
    ),
    Flag("learned_steps", int, "learned: steps of the inner problem; as it was trained"),
]

FLAGS = [
    Flag("workdir", str, "the run to evaluate"),
    Flag("attacks", str, "names joined by commas", "clean,fgsm,pgm10,pgm100x5"),
    Flag("which", WHICH, "best or last epoch, theta itself or its average", "best"),
    Flag("split", ("test", "val"), "the images that are attacked", "test"),
    Flag("norm", ("linf", "l2"), "the ball of every attack", "linf"),
    Flag("eps", "fraction", "radius on the [0, 1] scale; the training one (l_inf)"),
    Flag("num_examples", int, "the first so many images; all of them"),
    Flag("batch_size", int, "images per batch; no result depends on it", 250),
    Flag("seed", int, "seed of the random draws", 0),
    *BUDGET,
    *LEARNED,
    Flag("curves", bool, "accuracy against eps and against PGM steps: robustness.png", False),
    Flag("save_adversarials", str, "an npz for the images, their labels and what became of them"),
    Flag("data_dir", str, "where the data set lies; the user's cache folder"),
    Flag("output", str, "the JSON to write; WORKDIR/evaluation.json"),
    Flag("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]


def evaluate(given: dict[str, Any]) -> int:
    """Restore, attack, print, write."""
    options = defaults(FLAGS) | given
    if not options["workdir"]:
        raise UsageError("--workdir=FOLDER of a run is needed")
    for name in ("batch_size", "num_examples", *(flag.name for flag in BUDGET)):
        if options[name] is not None and options[name] <= 0:
            raise UsageError(f"--{name}={options[name]} must be positive")
    prepare(options["compilation_cache"])
    from l2ljax.attacks import Budget
    from l2ljax.checkpoint import fingerprint
    from measure import measure, warnings
    from pictures import figures_or_none
    from report import show_results
    from saved import open_run, restore
    from signals import Interrupted
    from unfinished import Unfinished
    from workdir import write_json

    budget = Budget(**{flag.name: options[flag.name] for flag in BUDGET})
    data_dir = options["data_dir"] or str(cache_folder("data"))
    attacks = _attacks(options, budget, data_dir)
    workdir = pathlib.Path(options["workdir"])
    config, data, game = open_run(workdir, data_dir)
    if options["norm"] != "linf" and options["eps"] is None:
        raise UsageError(f"--norm={options['norm']} needs --eps: the run trained in the l_inf ball")
    text = options["eps"] or config["eps"]
    eps = check_eps(text, options["norm"])
    saved = restore(workdir, options["which"], config, data, game)
    x, y = (data.x_test, data.y_test) if options["split"] == "test" else (data.x_val, data.y_val)
    n = min(options["num_examples"] or len(x), len(x))
    x, y = x[:n], y[:n]
    output = pathlib.Path(options["output"] or workdir / "evaluation.json")
    f = game.frozen(saved.theta, saved.state.theta_stats)
    identity = {
        "images": hashlib.sha256(np.ascontiguousarray(x).tobytes() + y.tobytes()).hexdigest()[:16],
        "theta": fingerprint((saved.theta, saved.state.theta_stats))[:16],
        "eps": eps,
        "keep": bool(options["save_adversarials"]),
        **{name: options[name] for name in ("attacks", "split", "norm", "seed")},
        **{flag.name: options[flag.name] for flag in LEARNED},
        **budget._asdict(),
    }
    print(
        f"{workdir}: {config['method']} on {config['dataset']}, {options['which']} "
        f"(step {saved.step}), {n} {options['split']} images, "
        f"{options['norm']} ball of eps = {text}",
        flush=True,
    )
    for line in warnings(f, x, y, attacks, options["batch_size"]):
        print(f"warning: {line}", file=sys.stderr)
    unfinished = Unfinished(output.with_suffix(".unfinished"), identity)
    try:
        results = measure(
            f,
            x,
            y,
            attacks,
            eps=eps,
            norm=options["norm"],
            batch_size=options["batch_size"],
            seed=options["seed"],
            keep=bool(options["save_adversarials"]),
            unfinished=unfinished,
            f32=_float32(config, data, saved),
        )
    except Interrupted as stop:
        print(f"{stop}; the same command goes on from there", file=sys.stderr)
        return stop.exit_code
    print(show_results(results, eps, text, options["norm"]))
    drawn = _curves(f, x, y, eps, options) if options["curves"] else None
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
            "norm": options["norm"],
            "budget": budget._asdict(),
            "config": config,
            "results": [_record(r, eps, text) for r in results],
            "curves": drawn,
            "made_with": made_with,
        },
    )
    print(f"{made_with['device']}, jax {made_with['jax']}; written to {output}")
    figures = figures_or_none() if drawn is not None else None
    if figures is not None:
        path, title = (
            output.with_name("robustness.png"),
            f"{config['method']} on {config['dataset']}",
        )
        print(f"drew {figures.draw_robustness(path, {workdir.name: drawn}, title)}")
    if options["save_adversarials"]:
        print(f"adversarial images in {_save(options['save_adversarials'], x, y, results)}")
    unfinished.remove()
    return 0


def _attacks(options: dict[str, Any], budget, data_dir: str) -> list:
    from l2ljax.attacks import parse_all
    from learned import finder

    find = finder(options, data_dir)
    try:
        attacks = parse_all(options["attacks"], budget=budget, learned=find)
        for attack in attacks:
            attack.check_norm(options["norm"])
    except ValueError as error:
        raise UsageError(str(error)) from None
    names = [attack.name for attack in attacks]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"--attacks names {sorted(twice)[0]!r} twice")
    return attacks


def _float32(config: dict[str, Any], data, saved):
    """The classifier that has to agree with a bf16 one that its images are misclassified."""
    if not config["bf16"]:
        return None
    from game import make_game

    game = make_game(config | {"bf16": False}, data)
    return game.frozen(saved.theta, saved.state.theta_stats)


def _curves(f, x: np.ndarray, y: np.ndarray, eps: float, options: dict[str, Any]) -> dict[str, Any]:
    import jax

    from curves import curves
    from l2ljax.progress import Progress
    from measure import PARTS

    with Progress(PARTS, label="curves", unit=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.update(PARTS * done // total)

        return curves(
            jax.random.key(options["seed"]),
            f,
            x,
            y,
            eps=eps,
            norm=options["norm"],
            batch_size=options["batch_size"],
            progress=progress,
        )


def _record(result, eps: float, text: str) -> dict[str, Any]:
    from report import attack_eps

    state = result.state
    return {
        "attack": result.attack,
        "eps": attack_eps(result.eps, eps, text),
        "accuracy": result.accuracy,
        "upper_bound_of": result.bounds,
        "seconds": result.seconds,
        "after": [step._asdict() for step in result.after],
        "largest_perturbation": state.largest,
        "pixels": [state.low, state.high] if state.largest else None,
        "refused": state.refused,
        "robust": "".join("1" if stood else "0" for stood in result.robust),
    }


def _save(name: str, x: np.ndarray, y: np.ndarray, results: list) -> pathlib.Path:
    path = pathlib.Path(name if name.endswith(".npz") else f"{name}.npz")
    arrays: dict[str, Any] = {"x": x, "y": y}
    for result in results:
        arrays[f"{result.attack}/x_adv"] = result.state.x_adv
        arrays[f"{result.attack}/robust"] = result.robust
    np.savez(path, **arrays)
    return path


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("evaluate.py", __doc__, FLAGS, evaluate, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
