"""The main job in one command: Plain, PGM Net and Grad L2L on digits, attacked side by side.

    make run        (or: python experiments/demo.py --out=runs/demo)

Trains three small nets with recipe `quick`, attacks each with FGSM, PGM-10 and PGM-100 from 5
random starts, and draws the curves, what the learned attacker does, and its perturbations.
"""

import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from l2ljax.commands import evaluate, train
from l2ljax.commands.flags import run_main
from l2ljax.errors import InputError
from l2ljax.settings import Setting, defaults

METHODS = ("plain", "pgm", "grad_l2l")

FLAGS = [
    Setting("out", str, "folder of the runs, pictures and tables", "runs/demo"),
    Setting("seed", int, "seed of the three runs", 0),
    Setting("epochs", int, "epochs of every run; the recipe's"),
    Setting("flags", str, "further flags of every training run, as '--model=mlp'", ""),
    Setting("attacks", str, "names joined by commas", "clean,fgsm,pgm10,pgm100x5"),
    Setting("columns", int, "images on the sheet of perturbations", 10),
]


def demo(given: dict[str, Any]) -> int:
    """Train, attack, print, draw."""
    options = defaults(FLAGS) | given
    if options["columns"] <= 0:
        raise InputError(f"--columns={options['columns']} must be positive")
    out = pathlib.Path(options["out"])
    for method in METHODS:
        print(f"\n== {method} ==", flush=True)
        command = [f"--method={method}", f"--seeds={options['seed']}", f"--workdir={out / method}"]
        command += [f"--epochs={options['epochs']}"] if options["epochs"] else []
        command += shlex.split(options["flags"])
        code = train.main([*command, "--final_attacks=clean"])
        code = code or evaluate.main(
            [f"--workdir={out / method}", f"--attacks={options['attacks']}"]
        )
        if code:
            return code
    measured = {m: json.loads((out / m / "evaluation.json").read_text()) for m in METHODS}
    seconds = {m: json.loads((out / m / "summary.json").read_text())["seconds"] for m in METHODS}
    _print(measured, seconds)
    print("\nWritten:")
    pictures = [path for m in METHODS for path in sorted((out / m).glob("*.png"))]
    pictures += _draw(out, measured, options["columns"])
    for path in (*sorted(out.glob("*/evaluation.json")), *pictures):
        print(f"  {path}")
    return 0


def _print(measured: dict[str, Any], seconds: dict[str, Any]) -> None:
    from l2ljax.evaluation.results import interval
    from l2ljax.terminal import align

    first = measured[METHODS[0]]
    lines = [["method", *first["results"], "training"]]
    for method, evaluation in measured.items():
        n, results = evaluation["images"], evaluation["results"]
        shares = [interval(r["accuracy"], n) for r in results.values()]
        lines.append([method, *shares, f"{seconds[method]['train']:.1f} s"])
    print(
        f"\n{first['config']['dataset']}, eps = {first['config']['eps']}, "
        f"{first['images']} test images, one seed; accuracy with its 95 % interval:\n"
    )
    print(align(lines))
    print(
        "\nA plain net falls to a few gradient steps. Grad L2L's attacker is a network that turns "
        "the image\nand its loss gradient into a perturbation; one backward pass teaches both."
    )


def _draw(out: pathlib.Path, measured: dict[str, Any], columns: int) -> list[pathlib.Path]:
    from l2ljax.commands.flags import figures_or_none
    from l2ljax.record import read

    figures = figures_or_none()
    if figures is None:
        return []
    table = {
        method: {name: (r["accuracy"], *r["interval"]) for name, r in e["results"].items()}
        for method, e in measured.items()
    }
    curves = {method: read(out / method / "metrics.jsonl") for method in METHODS}
    comparison = figures.draw_comparison(out / "comparison.png", curves, table)
    return [comparison, figures.draw_sheet(out / "grad_l2l", out / "perturbations.png", columns)]


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("demo.py", __doc__, FLAGS, demo, argv)
