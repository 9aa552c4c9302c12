r"""Black-box robustness: images crafted on one net, classified by others (Tables 3, 6 and 7).

    python experiments/transfer.py --targets=runs/digits-pgm-0,runs/digits-grad_l2l-0 \
        --surrogates=runs/digits-plain-1,runs/digits-pgm-1 --output=runs/transfer

The paper's surrogate is a run of the same architecture with another seed. Each surrogate is
attacked once per attack and every target gets the same images, all nets in eval mode and float32.
Every image is attacked, also those that the surrogate itself gets wrong. As in evaluate.py an image
counts if the target is right before and after; the paper counts the attacked images alone, and the
JSON holds that too. Of an attack with several runs the target must withstand every one. Below its
column stands each surrogate's own, white-box, accuracy; a * marks a target of the same weights.
Prints a table per attack; writes OUTPUT.json (per-image results), OUTPUT.md and OUTPUT.png.
"""

import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from l2ljax.commands.flags import (
    COMPILATION_CACHE,
    DATA_DIR,
    PLUGINS,
    figures_or_none,
    files_of,
    run_main,
)
from l2ljax.errors import InputError
from l2ljax.evaluation.transfer import Transfer, crafting
from l2ljax.evaluation.transfer import transfer as measure
from l2ljax.machine import describe, prepare
from l2ljax.plugins import Plugins
from l2ljax.runs.config import write_json
from l2ljax.runs.evaluation import open_classifiers, read_comparable, short_names
from l2ljax.runs.run import WHICH, images_of, load_data
from l2ljax.settings import Setting, check_eps, defaults
from l2ljax.terminal import align, markdown

FLAGS = [
    Setting("targets", str, "workdirs of the runs that classify, joined by commas"),
    Setting("surrogates", str, "workdirs of the runs that are attacked; the targets"),
    Setting("attacks", str, "names joined by commas, as evaluate.py takes them", "fgsm,pgm10"),
    Setting("which", WHICH, "best or last epoch, theta itself or its average", "best"),
    Setting("split", ("test", "val"), "the images that are attacked", "test"),
    Setting("eps", "fraction", "radius on the [0, 1] scale; the training one, if the runs agree"),
    Setting("num_examples", int, "the first so many images; all of them", None, "> 0"),
    Setting("batch_size", int, "images per batch; no result depends on it", 250, "> 0"),
    Setting("seed", int, "seed of the random starts", 0),
    DATA_DIR,
    PLUGINS,
    Setting("output", str, "path of what is written, without its ending", "runs/transfer"),
    Setting("plots", bool, "draw OUTPUT.png (extra: plots)", True),
    COMPILATION_CACHE,
]


def transfer(given: dict[str, Any]) -> int:
    """Open the runs, craft on every surrogate, score on every target, print, write, draw."""
    options = defaults(FLAGS) | given
    plugins = Plugins(files_of(options))
    words, own = plugins.take_attacks(options["attacks"])
    attacks = crafting(words, extra=own)
    targets, surrogates = (_listed(options, role) for role in ("targets", "surrogates"))
    workdirs = short_names(list(dict.fromkeys([*targets, *surrogates])))
    configs, eps = read_comparable(
        workdirs, eps=options["eps"], split=options["split"], plugins=plugins
    )
    prepare(options["compilation_cache"])
    runs = open_classifiers(workdirs, which=options["which"], plugins=plugins)
    data = load_data(next(iter(configs.values())), options["data_dir"])
    out = pathlib.Path(options["output"])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output={out} cannot be written: {error.strerror}") from None
    names = {workdir: name for name, workdir in workdirs.items()}
    x, y = (
        array[: options["num_examples"] or len(array)]
        for array in images_of(data, options["split"])
    )
    found = measure(
        {names[path]: runs[names[path]].f for path in targets},
        {names[path]: runs[names[path]].f for path in surrogates},
        x,
        y,
        eps=check_eps(eps),
        attacks=attacks,
        batch_size=options["batch_size"],
        seed=options["seed"],
        progress=True,
    )._replace(eps_text=eps)
    report = found.as_json()
    for name, run in runs.items():
        report["nets"][name] |= {
            "workdir": run.workdir,
            "step": run.step,
            "sha256": run.sha256,
            "config": run.config,
        }
    report |= {name: options[name] for name in ("split", "which", "seed")}
    report |= {"command": _command(options), "dataset": data.name, "made_with": describe()}
    print(_page(found, report, align))
    files = {kind: out.with_name(f"{out.name}.{kind}") for kind in ("json", "md", "png")}
    write_json(files["json"], report)
    files["md"].write_text(_page(found, report, markdown))
    print(f"written to {files['json']} and {files['md']}")
    figures = figures_or_none() if options["plots"] else None
    if figures is not None:
        print(f"drew {figures.draw_transfer(files['png'], report)}")
    return 0


def _listed(options: dict[str, Any], role: str) -> list[str]:
    text = options[role] or options["targets"] or ""
    workdirs = [part.strip() for part in text.split(",") if part.strip()]
    if not workdirs:
        raise InputError(f"--{role}=WORKDIR,WORKDIR,... of runs are needed")
    return list(dict.fromkeys(workdirs))


def _command(options: dict[str, Any]) -> str:
    changed = {f.name: options[f.name] for f in FLAGS if options[f.name] != f.default}
    words = ["python", "experiments/transfer.py", *(f"--{k}={v}" for k, v in changed.items())]
    return shlex.join(words)


def _page(
    found: Transfer, report: dict[str, Any], lay_out: Callable[[Sequence[Sequence[str]]], str]
) -> str:
    made = report["made_with"]
    higher = max(cell["accuracy_attacked"] - cell["accuracy"] for cell in found.cells)
    parts = [
        f"Measured here: `{report['command']}`",
        f"{report['dataset']}, {found.images} {report['split']} images, {report['which']} "
        "checkpoints. Rows classify, columns were attacked; images right before and after, with "
        "95 % Wilson intervals; * white-box. On the attacked images alone, as the paper counts, no "
        f"accuracy is more than {100 * higher:.1f} points higher. {made['device']}, jax "
        f"{made['jax']}, commit {made['commit']}.",
    ]
    return "\n\n".join([*parts, *found.tables(lay_out), *found.suspects()]) + "\n"


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("transfer.py", __doc__, FLAGS, transfer, argv)
