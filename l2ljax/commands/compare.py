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
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from l2ljax.attacks import parse_all
from l2ljax.attacks.specs import Pgm
from l2ljax.commands import evaluate, train
from l2ljax.commands.comparison_page import page
from l2ljax.commands.flags import parse, run_main
from l2ljax.errors import InputError, word
from l2ljax.machine import describe
from l2ljax.methods import METHODS
from l2ljax.runs.workdir import write_json
from l2ljax.settings import Setting, defaults, seeds_of

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
    Setting("num_examples", int, "attack only the first so many test images"),
    Setting("data_dir", str, "where the data set lies; the user's cache folder"),
    Setting("draws", int, "draws of the bootstrap", 10_000),
]


def compare(given: dict[str, Any]) -> int:
    """Train, attack, write."""
    options = defaults(FLAGS) | given
    methods, seeds = options["methods"].split(","), options["seeds"].split(",")
    for method in methods:
        word("method", method, METHODS)
    seeds_of(options["seeds"])
    for name, listed in (("methods", methods), ("seeds", seeds)):
        if len(set(listed)) < len(listed):
            raise InputError(f"--{name}={options[name]} names one twice")
    # A trained attacker is opened by evaluate.py; here it is enough that its name is one.
    parse_all(options["attacks"], learned=lambda workdir: Pgm(1, 1.0, "zero"))
    for name in ("draws", "num_examples"):
        if options[name] is not None and options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    if options["against"] not in methods:
        raise InputError(f"--against={options['against']} is not among --methods")
    pairs = [tuple(pair.split(":")) for pair in options["pairs"].split(",") if pair]
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(methods):
            raise InputError(f"--pairs: {':'.join(pair)} is no A:B of two of --methods")
    further = parse(train.FLAGS, _words(options["flags"]))
    taken = {"method", "dataset", "seeds", "recipe", "workdir", "data_dir"} & further.keys()
    if taken:
        raise InputError(f"--flags: --{min(taken)} is compare.py's own to set")
    if further.get("val_size") == 0:
        raise InputError("--flags: --val_size=0 holds out no validation images to choose by")
    found = _search(options["search"], options["trials"], methods)
    root, runs = pathlib.Path(options["workdir"]), {}
    for seed in seeds:
        for method in methods:
            workdir = root / f"{options['dataset']}-{method}-{seed}"
            chosen = found[method]["flags"] if options["trials"] else {}
            code, runs[method, seed] = _run(method, seed, workdir, chosen, options)
            jax.clear_caches()  # a row's programs are its own, and a process may map only so many
            if code:
                return code
    report = _report(runs, methods, seeds, pairs, options) | {"search": found}
    out = pathlib.Path(options["out"] or root / options["dataset"])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out.with_suffix(".json"), report)
    out.with_suffix(".md").write_text(page(report))
    print(f"{page(report)}\nwritten to {out}.md and {out}.json")
    return 0


def _words(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError as error:
        raise InputError(f"--flags={flags}: {error}") from None


def _run(method: str, seed: str, workdir: pathlib.Path, chosen: dict, options: dict[str, Any]):
    flags = [f"--method={method}", f"--dataset={options['dataset']}", f"--seeds={seed}"]
    flags += [f"--recipe={options['recipe']}"] if options["recipe"] else []
    flags += [*(f"--{name}={value}" for name, value in chosen.items())]
    flags += shlex.split(options["flags"])
    data = [f"--data_dir={options['data_dir']}"] if options["data_dir"] else []
    flags += [*data, f"--workdir={workdir}", "--final_attacks=clean", "--noplots"]
    code = train.main(flags)
    if code:
        return code, None
    summary = json.loads((workdir / "summary.json").read_text())
    which, name = "last", "evaluation_last.json"
    if options["which"] == "best":
        best, score = summary["best"], METHODS[method].selects
        which, name = max(best, key=lambda kind: best[kind][score]), "evaluation.json"
    tested, images = workdir / name, options["num_examples"]
    there = summary["test_images"]
    asked = options["attacks"].split(",")
    if not _answers(tested, which, asked, min(images or there, there)):
        flags = [f"--workdir={workdir}", f"--which={which}", f"--attacks={options['attacks']}"]
        flags += [f"--output={tested}", *data, *([f"--num_examples={images}"] if images else [])]
        code = evaluate.main(flags)
        if code:
            return code, None
    return 0, {"summary": summary, "evaluation": json.loads(tested.read_text())}


def _answers(tested: pathlib.Path, which: str, attacks: Sequence[str], images: int) -> bool:
    """Whether an evaluation is there, of this checkpoint, with these attacks on so many images."""
    if not tested.exists():
        return False
    found = json.loads(tested.read_text())
    same = found["which"] == which and found["images"] == images
    return same and {r["attack"] for r in found["results"]} >= set(attacks)


def _robust(run: dict[str, Any], attack: str) -> np.ndarray:
    results = {r["attack"]: r["robust"] for r in run["evaluation"]["results"]}
    return np.array([c == "1" for c in results[attack]])


def _report(runs, methods, seeds, pairs, options) -> dict[str, Any]:
    attacks = options["attacks"].split(",")
    rows = {}
    for method in methods:
        of = [runs[method, seed] for seed in seeds]
        accuracy = {a: [float(_robust(run, a).mean()) for run in of] for a in attacks}
        rows[method] = {
            "accuracy": accuracy,
            "seconds": [run["summary"]["seconds"]["train"] for run in of],
            "ms_per_step": [
                1e3 * run["summary"]["seconds"]["train"] / run["summary"]["steps"]["last"]
                for run in of
            ],
            "overfitting": [run["summary"]["overfitting"] for run in of],
            "which": [run["evaluation"]["which"] for run in of],
            "flags": of[0]["evaluation"]["config"],
        }
    rng, robust = np.random.default_rng(0), {}
    for method in methods:
        robust[method] = np.stack([_robust(runs[method, seed], attacks[-1]) for seed in seeds])
    reference = robust[options["against"]]
    for method, row in rows.items():
        row["gap"] = _gap(rng, robust[method], reference, options["draws"])
        seconds = np.median(rows[options["against"]]["seconds"])
        row["time"] = float(np.median(row["seconds"]) / seconds)
    changed = {f.name: options[f.name] for f in FLAGS if options[f.name] not in (None, "")}
    changed.pop("data_dir", None)
    command = "python experiments/compare.py " + " ".join(
        shlex.quote(f"--{name}={value}") for name, value in changed.items()
    )
    return {
        "command": command,
        "dataset": options["dataset"],
        "against": options["against"],
        "attacks": attacks,
        "seeds": seeds,
        "which": options["which"],
        "images": reference.shape[1],
        "rows": rows,
        "pairs": {f"{a}:{b}": _gap(rng, robust[a], robust[b], options["draws"]) for a, b in pairs},
        "commits": sorted({r["evaluation"]["made_with"]["commit"] for r in runs.values()}),
        "made_with": describe(),
    }


def _gap(rng: np.random.Generator, ours, other, draws: int) -> list[float]:
    """Mean difference of flags [seeds, images], and its 95 % interval over images."""
    gap = (ours.astype(float) - other).mean(0)  # per image, seeds paired
    drawn = rng.integers(0, len(gap), (draws, len(gap)))
    low, high = np.percentile(gap[drawn].mean(1), (2.5, 97.5))
    return [float(gap.mean()), float(low), float(high)]


def _search(folder: str, first: int | None, methods: Sequence[str]) -> dict[str, Any]:
    """What the search found for each method; with `first`, all must have had so many trials."""
    if first and not folder:
        raise InputError("--trials needs --search, the folder of experiments/search.py's records")
    found = {}
    for method in methods:
        path = pathlib.Path(folder) / f"{method}.jsonl"
        lines = path.read_text().splitlines() if folder and path.exists() else []
        trials = [json.loads(line) for line in lines][:first]
        if first and len(trials) < first:
            raise InputError(
                f"{path} has {len(trials)} of {first} trials: "
                f"python experiments/search.py --method={method} --trials={first} --out={folder}"
            )
        if trials:
            best = max(trials, key=lambda trial: trial["robust"])
            scores = sorted((trial["robust"] for trial in trials), reverse=True)
            found[method] = {
                "trials": len(trials),
                "chosen": best["trial"],
                "flags": best["flags"],
                "best": scores[0],
                "median": float(np.median(scores)),
                "five_best": scores[:5],
            }
    return found


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("compare.py", __doc__, FLAGS, compare, argv)
