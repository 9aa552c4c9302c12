r"""Methods side by side: train with several seeds, attack the test set once, bootstrap the gap.

    python experiments/compare.py --methods=pgm,grad_l2l,plain --seeds=1,2,3,4,5 \
        --against=pgm --out=results/digits

Each run is the plain `train.py --method=M --dataset=D --seeds=S`, so a finished one is not run
again; runs are taken seed by seed, so that all methods see the same machine. The tested checkpoint
is the better on validation of best and best_ema; with --which=last the last epoch's, where
overfitting shows. Writes OUT.md and OUT.json.
"""

import json
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax

from l2ljax.attacks import parse_all
from l2ljax.attacks.specs import Pgm
from l2ljax.commands import train
from l2ljax.commands.flags import DATA_DIR, PLUGINS, files_of, numbers, parse, run_main
from l2ljax.errors import InputError
from l2ljax.machine import prepare
from l2ljax.methods import METHODS
from l2ljax.plugins import Plugins
from l2ljax.runs.comparison import page, read_trials, report
from l2ljax.runs.config import short_name, write_json
from l2ljax.runs.evaluation import evaluate_run
from l2ljax.runs.settings import with_plugins
from l2ljax.runs.train import train as train_run
from l2ljax.settings import Setting, defaults
from l2ljax.terminal import Interrupted

FLAGS = [
    Setting("methods", str, "names joined by commas", "pgm,grad_l2l,plain"),
    Setting("dataset", str, "the data set", "digits"),
    Setting("recipe", str, "the recipe of all runs; the data set's own"),
    Setting("seeds", str, "seeds of the runs, none of which chose the recipe", "1,2,3,4,5"),
    Setting(
        "attacks",
        str,
        "names joined by commas; the last one is compared",
        "clean,fgsm,pgm10,pgm100x5",
    ),
    Setting("against", str, "the method the others are compared with", "pgm"),
    Setting("which", ("best", "last"), "tested epoch: best on validation | last", "best"),
    Setting("pairs", str, "further differences, as 'fast_bat:fast_at,rnn_adv:pgd10'", ""),
    Setting("workdir", str, "folder of the runs", "runs/compare"),
    Setting("out", str, "path of the report without its ending; WORKDIR/DATASET"),
    Setting("search", str, "folder of experiments/search.py's records, for the report", ""),
    Setting(
        "trials",
        int,
        "each run takes the flags of its method's best among so many first trials of --search, "
        "instead of the recipe's; the same number for all methods",
    ),
    Setting("flags", str, "further flags of every training run, as '--epochs=5 --model=mlp'", ""),
    Setting("num_examples", int, "attack only the first so many test images", None, "> 0"),
    Setting("draws", int, "draws of the bootstrap", 10_000, "> 0"),
    DATA_DIR,
    PLUGINS,
]


def compare(given: dict[str, Any]) -> int:
    """Train, attack, write."""
    options = defaults(FLAGS) | given
    plugins = Plugins(files_of(options))
    methods = [plugins.take(method) for method in options["methods"].split(",")]
    seeds = numbers("seeds", options["seeds"])
    for method in methods:
        plugins.find("method", method, METHODS)
    for name, listed in (("methods", methods), ("seeds", seeds)):
        if len(set(listed)) < len(listed):
            raise InputError(f"--{name}={options[name]} names one twice")
    # The run of a trained attacker is opened later; here it is enough that it is named.
    attacks, own = plugins.take_attacks(options["attacks"])
    parse_all(attacks, learned=lambda workdir: Pgm(1, 1.0, "zero"), extra=own)
    options |= {name: plugins.take(options[name]) for name in ("against", "dataset", "recipe")}
    options["attacks"] = ",".join(attacks)
    if options["against"] not in methods:
        raise InputError(f"--against={options['against']} is not among --methods")
    both = {f"{a}:{b}": (a, b) for a in methods for b in methods}  # a method may hold a colon
    listed = [pair for pair in options["pairs"].split(",") if pair]
    for pair in listed:
        if pair not in both:
            raise InputError(f"--pairs: {pair} is no A:B of two of --methods")
    pairs = [both[pair] for pair in listed]
    words = _words(options["flags"])
    table = train.flags_for(words)
    for method in methods:
        named = {"method": method, "dataset": options["dataset"]}
        table = with_plugins(table, plugins, named)
    further = parse(table, words)
    taken = {"method", "dataset", "seeds", "recipe", "workdir", "data_dir"} & further.keys()
    if taken:
        raise InputError(f"--flags: --{min(taken)} is compare.py's own to set")
    if further.get("val_size") == 0:
        raise InputError("--flags: --val_size=0 holds out no validation images to choose by")
    found = read_trials(options["search"], options["trials"], methods)
    prepare("user")
    root, runs = pathlib.Path(options["workdir"]), {}
    for seed in seeds:
        for method in methods:
            settings = {"method": method, "recipe": options["recipe"]} | further
            settings |= found[method]["flags"] if options["trials"] else {}
            try:
                runs[method, seed] = _run(settings, seed, root, plugins, options)
            except Interrupted as stop:
                print(f"{stop}; the same command goes on from there", file=sys.stderr)
                return stop.exit_code
            jax.clear_caches()  # a row's programs are its own, and a process may map only so many
    asked = options | given
    changed = {f.name: asked[f.name] for f in FLAGS if asked[f.name] not in (None, "")}
    changed.pop("data_dir", None)
    words = (shlex.quote(f"--{name}={value}") for name, value in changed.items())
    made = report(
        runs,
        methods,
        seeds,
        pairs,
        against=options["against"],
        attacks=attacks,
        draws=options["draws"],
    )
    made |= {"command": f"python experiments/compare.py {' '.join(words)}", "search": found}
    made |= {"dataset": options["dataset"], "which": options["which"]}
    out = pathlib.Path(options["out"] or root / short_name(options["dataset"]))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out.with_suffix(".json"), made)
    out.with_suffix(".md").write_text(page(made))
    print(f"{page(made)}\nwritten to {out}.md and {out}.json")
    return 0


def _words(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError as error:
        raise InputError(f"--flags={flags}: {error}") from None


def _run(
    settings: dict[str, Any],
    seed: int,
    root: pathlib.Path,
    plugins: Plugins,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The summary of a run and its evaluation, as they stand in its folder."""
    names = map(short_name, (options["dataset"], settings["method"]))
    workdir = root / f"{'-'.join(names)}-{seed}"
    run = train_run(
        seed=seed,
        workdir=workdir,
        plugins=plugins,
        progress=True,
        dataset=options["dataset"],
        data_dir=options["data_dir"],
        final_attacks="clean",
        **settings,
    )
    which, tested = "last", workdir / "evaluation_last.json"
    if options["which"] == "best":
        best, score = run.summary["best"], run.game.method.selects
        which = max(best, key=lambda kind: best[kind][score])
        tested = workdir / "evaluation.json"
    there = run.summary["test_images"]
    images = min(options["num_examples"] or there, there)
    if not _answers(tested, which, options["attacks"].split(","), images):
        evaluate_run(
            workdir,
            which=which,
            attacks=options["attacks"],
            output=tested,
            data_dir=options["data_dir"],
            num_examples=images,
            plugins=plugins,
            progress=True,
            say=print,
        )
    return {"summary": run.summary, "evaluation": json.loads(tested.read_text())}


def _answers(tested: pathlib.Path, which: str, attacks: Sequence[str], images: int) -> bool:
    """Whether an evaluation is there, of this checkpoint, with these attacks on so many images."""
    if not tested.exists():
        return False
    found = json.loads(tested.read_text())
    same = found["which"] == which and found["images"] == images
    return same and set(found["results"]) >= set(attacks)


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("compare.py", __doc__, FLAGS, compare, argv)
