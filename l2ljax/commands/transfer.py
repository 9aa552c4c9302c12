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
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from l2ljax.attacks import Attack, parse, parse_all
from l2ljax.attacks.entrance import dataset
from l2ljax.commands.flags import run_main
from l2ljax.commands.pictures import figures_or_none
from l2ljax.data import Dataset
from l2ljax.errors import InputError
from l2ljax.evaluation.accuracy import robust
from l2ljax.evaluation.tables import attack_eps, interval
from l2ljax.machine import cache_folder, describe, prepare
from l2ljax.runs.nets import Net, agreed, broken_gradients, by_name, open_nets, withstood
from l2ljax.runs.saved import WHICH, images_of
from l2ljax.runs.workdir import write_json
from l2ljax.settings import Setting, check_eps, defaults
from l2ljax.tables import align, markdown

FLAGS = [
    Setting("targets", str, "workdirs of the runs that classify, joined by commas"),
    Setting("surrogates", str, "workdirs of the runs that are attacked; the targets"),
    Setting("attacks", str, "names joined by commas, as evaluate.py takes them", "fgsm,pgm10"),
    Setting("which", WHICH, "best or last epoch, theta itself or its average", "best"),
    Setting("split", ("test", "val"), "the images that are attacked", "test"),
    Setting("eps", "fraction", "radius on the [0, 1] scale; the training one, if the runs agree"),
    Setting("num_examples", int, "the first so many images; all of them"),
    Setting("batch_size", int, "images per batch; no result depends on it", 250),
    Setting("seed", int, "seed of the random starts", 0),
    Setting("data_dir", str, "where the data set lies; the user's cache folder"),
    Setting("output", str, "path of what is written, without its ending", "runs/transfer"),
    Setting("plots", bool, "draw OUTPUT.png (extra: plots)", True),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]

SUSPECT = 0.002, 3
"""Share and number of images by which transfer may beat the white-box attack."""


def transfer(given: dict[str, Any]) -> int:
    """Restore, craft on every surrogate, score on every target, print, write, draw."""
    options = defaults(FLAGS) | given
    attacks = _attacks(options)
    targets, surrogates = (_listed(options, role) for role in ("targets", "surrogates"))
    workdirs = by_name(list(dict.fromkeys([*targets, *surrogates])))
    configs, eps = agreed(workdirs, eps=options["eps"], split=options["split"])
    prepare(options["compilation_cache"])
    folder = options["data_dir"] or str(cache_folder("data"))
    nets, data = open_nets(workdirs, configs, which=options["which"], data_dir=folder)
    out = pathlib.Path(options["output"])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output={out} cannot be written: {error.strerror}") from None
    names = {workdir: name for name, workdir in workdirs.items()}
    rows, columns = ([names[path] for path in role] for role in (targets, surrogates))
    report = _measure(nets, rows, columns, data, attacks, eps, options)
    print(_page(report, align))
    files = {kind: out.with_name(f"{out.name}.{kind}") for kind in ("json", "md", "png")}
    write_json(files["json"], report)
    files["md"].write_text(_page(report, markdown))
    print(f"written to {files['json']} and {files['md']}")
    figures = figures_or_none() if options["plots"] else None
    if figures is not None:
        print(f"drew {figures.draw_transfer(files['png'], report)}")
    return 0


def _attacks(options: dict[str, Any]) -> list[Attack]:
    for name in ("batch_size", "num_examples"):
        if options[name] is not None and options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    try:
        attacks = {attack.name: attack for attack in parse_all(options["attacks"])}
    except ValueError as error:
        raise InputError(str(error)) from None
    attacks.pop("clean", None)  # always in the table
    if not attacks:
        raise InputError(f"--attacks={options['attacks']} crafts nothing; try fgsm,pgm10")
    return list(attacks.values())


def _listed(options: dict[str, Any], role: str) -> list[str]:
    text = options[role] or options["targets"] or ""
    workdirs = [part.strip() for part in text.split(",") if part.strip()]
    if not workdirs:
        raise InputError(f"--{role}=WORKDIR,WORKDIR,... of runs are needed")
    return list(dict.fromkeys(workdirs))


def _measure(
    nets: Mapping[str, Net],
    targets: list[str],
    surrogates: list[str],
    data: Dataset,
    attacks: Sequence[Attack],
    eps: str,
    options: dict[str, Any],
) -> dict[str, Any]:
    x, y = images_of(data, options["split"])
    n = min(options["num_examples"] or len(x), len(x))
    x, y, rng = x[:n], y[:n], jax.random.key(options["seed"])
    how = {"eps": check_eps(eps), "batch_size": min(options["batch_size"], n)}
    clean = {name: robust(rng, net.f, x, y, parse("clean"), **how) for name, net in nets.items()}
    classes = {name: dataset(nets[name].f, x, y, batch_size=how["batch_size"])[2] for name in nets}
    broken = {
        name: broken_gradients(nets[name].f, x, y, batch_size=how["batch_size"])
        for name in surrogates
    }
    for name, count in broken.items():
        if count:
            print(
                f"warning: {name}: the gradient is NaN or infinite at {count} of {n} images: what "
                "is crafted on it there by gradient has not moved",
                file=sys.stderr,
            )
    results = []
    for attack in attacks:
        for surrogate in surrogates:
            print(f"{attack.name}: crafting on {surrogate}", file=sys.stderr)
            source = nets[surrogate]
            scored = {name: nets[name].f for name in dict.fromkeys([*targets, surrogate])}
            runs = attack.runs(classes[surrogate])
            for target, right in withstood(rng, source.f, scored, x, y, runs, **how).items():
                stood = right & clean[target]
                results.append(
                    {
                        "attack": attack.name,
                        "eps": attack_eps(attack.radius(how["eps"]), how["eps"], eps),
                        "surrogate": surrogate,
                        "target": target,
                        "white_box": nets[target].sha256 == source.sha256,
                        "accuracy": float(stood.mean()),
                        "accuracy_attacked": float(right.mean()),
                        "robust": _bits(stood),
                        "right_attacked": _bits(right),
                    }
                )
    changed = {f.name: options[f.name] for f in FLAGS if options[f.name] != f.default}
    return {
        "command": shlex.join(
            ["python", "experiments/transfer.py", *(f"--{k}={v}" for k, v in changed.items())]
        ),
        "dataset": data.name,
        "split": options["split"],
        "images": n,
        "eps": eps,
        "which": options["which"],
        "seed": options["seed"],
        "targets": targets,
        "surrogates": surrogates,
        "nets": {
            name: {
                "workdir": net.workdir,
                "step": net.step,
                "sha256": net.sha256,
                "accuracy": float(clean[name].mean()),
                "right": _bits(clean[name]),
                "nan_gradient": broken.get(name),
                "config": net.config,
            }
            for name, net in nets.items()
        },
        "results": results,
        "made_with": describe(),
    }


def _bits(flags: np.ndarray) -> str:
    return "".join("1" if flag else "0" for flag in flags)


def _page(report: dict[str, Any], layout: Callable[[Sequence[Sequence[str]]], str]) -> str:
    made, n, surrogates = report["made_with"], report["images"], report["surrogates"]
    cells = {(r["attack"], r["target"], r["surrogate"]): r for r in report["results"]}
    higher = max(r["accuracy_attacked"] - r["accuracy"] for r in report["results"])

    def share(attack: str, target: str, surrogate: str) -> str:
        cell = cells[attack, target, surrogate]
        return interval(cell["accuracy"], n) + " *" * cell["white_box"]

    parts = [
        f"Measured here: `{report['command']}`",
        f"{report['dataset']}, {n} {report['split']} images, {report['which']} checkpoints. Rows "
        "classify, columns were attacked; images right before and after, with 95 % Wilson "
        "intervals; * white-box. On the attacked images alone, as the paper counts, no accuracy "
        f"is more than {100 * higher:.1f} points higher. {made['device']}, jax {made['jax']}, "
        f"commit {made['commit']}.",
    ]
    for attack, eps in dict.fromkeys((r["attack"], r["eps"]) for r in report["results"]):
        lines = [["target", "clean", *surrogates]]
        for target in report["targets"]:
            clean = interval(report["nets"][target]["accuracy"], n)
            lines.append([target, clean, *(share(attack, target, name) for name in surrogates)])
        lines.append(["the surrogate itself", "", *(share(attack, s, s) for s in surrogates)])
        parts.append(f"{attack}, eps = {eps}:\n\n{layout(lines)}")
    return "\n\n".join([*parts, *_suspects(cells, n)]) + "\n"


def _suspects(cells: Mapping[tuple[str, str, str], dict[str, Any]], n: int) -> list[str]:
    """The nets that another's images harm more than their own."""
    lines = []
    for (attack, target, surrogate), cell in cells.items():
        own = cells.get((attack, target, target), cell)
        gap = own["accuracy"] - cell["accuracy"]
        if gap > SUSPECT[0] and round(gap * n) >= SUSPECT[1] and not cell["white_box"]:
            lines.append(
                f"{target}: {attack} crafted on {surrogate} harms it more than its own, by "
                f"{100 * gap:.1f} points; its gradients may be masked."
            )
    return lines


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("transfer.py", __doc__, FLAGS, transfer, argv)
