"""Train a robust classifier by learning to attack.

    python experiments/train.py --method=grad_l2l --dataset=cifar100
    python experiments/train.py --method=pgm --dataset=digits --seeds=0,1,2

The same command again resumes an interrupted run; Ctrl-C and SIGTERM save first. Without --recipe,
CIFAR and SVHN take the settings of the authors' code and digits those of `quick`; every flag of
the run is printed. Writes to runs/DATASET-METHOD-SEED: config.json, metrics.jsonl, summary.json,
checkpoints/, tensorboard/, curves.png and, for a learned attacker, attacker.png.
"""

import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from l2ljax.commands.flags import run_main
from l2ljax.errors import InputError
from l2ljax.hosts import HOSTS, Together, join
from l2ljax.parallel import KINDS
from l2ljax.runs import settings as configuration
from l2ljax.settings import Setting, defaults, seeds_of

RUN = [
    Setting("seeds", str, "one run for each of these seeds, as 0,1,2", "0"),
    Setting("workdir", str, "where the run is written; with several seeds, one folder each inside"),
    Setting(
        "data_dir", str, "archives, unpacked folders or a prepared tfds tree; downloads go here"
    ),
    Setting("download", bool, "fetch a dataset that is not in data_dir", True),
    Setting("final_attacks", str, "attacks on the test set at the end", "clean,fgsm,pgm10"),
    Setting(
        "select_check",
        int,
        "validation images on which quick AutoAttack checks the best; 0: none",
        0,
    ),
    Setting(
        "diagnose",
        int,
        "validation images for the attacker's diagnostics, an epoch; training ones if --val_size=0",
        128,
    ),
    Setting("eval_batch", int, "images per batch in validation and evaluation", 250),
    Setting(
        "parallel",
        KINDS,
        "one device | the step on every device, its rows each | one program, its batch sharded; "
        "pmap where there are several devices",
    ),
    Setting("steps_per_call", int, "steps of one compiled call; 1 on a CPU, up to 50 elsewhere"),
    Setting("data_on", ("device", "host"), "where the images stay; on the device if they fit"),
    Setting(
        "profile", bool, "trace ten steps: WORKDIR/profile for TensorBoard, and a table", False
    ),
    *HOSTS,
    Setting("log_every", int, "steps between lines in metrics.jsonl within an epoch; 0: none", 50),
    Setting("checkpoint_every", int, "epochs between checkpoints", 1),
    Setting("checkpoint_minutes", float, "minutes after which a checkpoint is due anyway", 10.0),
    Setting("tensorboard", bool, "write TensorBoard event files; if the extra plots is installed"),
    Setting("plots", bool, "draw curves.png at the end (extra: plots)", True),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]

FLAGS = [*configuration.DECIDES, *RUN]


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("train.py", __doc__, FLAGS, train, argv)


def train(given: dict[str, Any]) -> int:
    """One run for every seed."""
    config = configuration.resolve(given)
    options = defaults(RUN) | {k: v for k, v in given.items() if k in defaults(RUN)}
    seeds = seeds_of(options["seeds"])
    _check(options)
    if options["select_check"] and config["val_size"] == 0:
        raise InputError(
            f"--select_check={options['select_check']} looks at validation images, and "
            "--val_size=0 holds none out"
        )
    from l2ljax.machine import prepare

    prepare(options["compilation_cache"])
    join(options)
    with Together():
        return _train(config, options, seeds)


def _train(config: dict[str, Any], options: dict[str, Any], seeds: list[int]) -> int:
    if options["tensorboard"] is None:
        options["tensorboard"] = importlib.util.find_spec("tensorboardX") is not None
        if not options["tensorboard"]:
            print("no TensorBoard files: pip install 'l2ljax[plots]' for them", file=sys.stderr)
    import jax

    from l2ljax.attacks import parse_all
    from l2ljax.machine import cache_folder
    from l2ljax.parallel import leads
    from l2ljax.runs.feed import fits
    from l2ljax.runs.game import layout_of, load_data, make_game, method_of
    from l2ljax.runs.loop import Run
    from l2ljax.runs.summary import conclude
    from l2ljax.runs.workdir import open_workdir
    from l2ljax.signals import Interrupted

    try:
        attacks = parse_all(options["final_attacks"])
    except ValueError as error:
        raise InputError(str(error)) from None
    method_of(config, channels=1)  # what cannot be played is refused before data are fetched
    data_dir = options["data_dir"] or str(cache_folder("data"))
    data = load_data(config, data_dir, options["download"])
    layout = layout_of(config, options["parallel"])
    options["data_on"] = options["data_on"] or ("device" if fits(data) else "host")
    game = make_game(config, data, layout)
    print(f"flags: {configuration.show(config)}")
    print(
        f"{data.name}: {len(data.x_train)} training, {len(data.x_val)} validation, "
        f"{len(data.x_test)} test images of {'x'.join(map(str, data.x_train.shape[1:]))}, "
        f"{data.num_classes} classes; eps = {config['eps']}",
        flush=True,
    )
    if not len(data.x_val):
        print(
            "no validation images: the last epoch is taken as the best, and nothing watches for "
            "catastrophic overfitting",
            flush=True,
        )
    if layout.kind != "none":
        print(f"{layout.kind} over {layout.size} devices, {jax.process_count()} processes")
    if jax.default_backend() == "cpu" and config["recipe"] != "quick":
        print("on a CPU this is slow: --recipe=quick has smaller nets", file=sys.stderr)
    ended = []  # of several processes one alone concludes, when all have trained
    for seed in seeds:
        workdir = _workdir(options["workdir"], config, seed, several=len(seeds) > 1)
        if config["init_from"] not in ("", "none") and not (workdir / "config.json").exists():
            game.init(seed)  # a start that cannot be had is refused before anything is written
        if leads():
            open_workdir(workdir, config, seed)
        run = Run(game, data, seed, config["epochs"], workdir, options)
        try:
            run.play()
        except Interrupted as stop:
            print(f"{stop}; the same command resumes it", file=sys.stderr)
            return stop.exit_code
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise InputError(_more_memory(config)) from error
        ended.append((workdir, config, data, game, attacks, options))
        if jax.process_count() == 1:
            conclude(*ended.pop())
    for each in ended:
        if leads():
            conclude(*each)
    return 0


def _more_memory(config: dict[str, Any]) -> str:
    return (
        f"out of memory at --batch_size={config['batch_size']}: a smaller one, --accumulate=2 "
        "(parts of a batch, one after another), --remat, --bf16 or --data_on=host need less"
    )


def _workdir(given: str | None, config: dict[str, Any], seed: int, several: bool) -> pathlib.Path:
    dataset = config["dataset"]
    if dataset.startswith("npz:"):
        dataset = pathlib.Path(dataset[4:]).stem
    name = f"{dataset}-{config['method']}-{seed}"
    if given is None:
        return pathlib.Path("runs") / name
    return pathlib.Path(given) / name if several else pathlib.Path(given)


def _check(options: dict[str, Any]) -> None:
    if options["steps_per_call"] is not None and options["steps_per_call"] <= 0:
        raise InputError(f"--steps_per_call={options['steps_per_call']} must be positive")
    for name in ("eval_batch", "checkpoint_every", "checkpoint_minutes"):
        if options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    for name in ("diagnose", "log_every", "select_check"):
        if options[name] < 0:
            raise InputError(f"--{name}={options[name]} must not be negative")
