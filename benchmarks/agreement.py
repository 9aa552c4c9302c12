# pyright: reportMissingImports=false
r"""Our AutoAttack beside the official one, image by image: every gate, over several nets.

    pip install -e '.[crosscheck]'
    python benchmarks/agreement.py --workdirs=runs/digits-pgm-0,runs/digits-grad_l2l-0 \
        --eps_l2=0.6,0.6 --out=results/autoattack_agreement

First with chance taken out: both sides get the same starts (APGD), the same draws (Square), or have
none (FAB-T), and the flags of every image have to agree. Then free-running: our cascade against the
official one with several seeds. The official side runs in torch on a twin that has the weights, or
on a bridge that asks JAX. Each finished part is kept in --cache, under a key made of everything it
depends on, so the same command goes on where it was. Writes OUT.md and OUT.json; ends with 1 if a
gate is missed.
"""

import os

# Beside JAX's threads torch's own slow each other down tenfold; before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hashlib
import importlib.metadata
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.ball import NORMS, scale
from l2ljax.commands.flags import run_main
from l2ljax.errors import InputError, nearest
from l2ljax.machine import describe, prepare
from l2ljax.runs.config import write_json
from l2ljax.runs.run import WHICH, load_data, load_run
from l2ljax.settings import Setting, defaults, fraction
from official.gates import judge_cascades, misses
from official.kept import Kept, Unfinished, sources
from official.page import page

FLAGS = [
    Setting("workdirs", str, "runs of train.py with a WideResNet, joined by commas"),
    Setting("which", WHICH, "best or last epoch, theta itself or its average", "best"),
    Setting("norms", str, "norms joined by commas", "linf,l2"),
    Setting("eps", str, "l_inf radii, one per run, joined by commas; the training ones"),
    Setting("eps_l2", str, "l2 radii, one per run, joined by commas"),
    Setting(
        "images", str, "test images, one number per run, joined by commas, or one for all", "500"
    ),
    Setting(
        "chance_images", int, "at most so many of them, rightly classified, without chance", 500
    ),
    Setting("models", str, "what the official attacks run on: twin, bridge or both", "twin"),
    Setting("seeds", int, "seeds of the official cascade, at least 2", 5),
    Setting("batch_size", int, "images per batch of the cascades", 250),
    Setting("budget", str, "APGD steps, FAB steps, targets, Square queries", "100,100,9,5000"),
    Setting("finished", bool, "report what is finished in --cache and measure nothing", False),
    Setting("cache", str, "folder of finished parts", "runs/agreement"),
    Setting("out", str, "path of the report without its ending", "runs/autoattack_agreement"),
    Setting("data_dir", str, "where the data sets lie; the user's cache folder"),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]


def open_net(
    workdir: str, which: str, eps: dict[str, float | None], images: int, data_dir: str | None
) -> Any:
    """A run's classifier, its twin and its bridge, on its first test images."""
    from official.bridge import Bridge
    from official.measure import Net
    from official.twin import twin

    run = load_run(workdir, which)
    config = run.config
    if not config["model"].startswith("wrn"):
        raise InputError(f"{workdir} is a {config['model']}; a torch twin is there for wrn-D-K")
    data = load_data(config, data_dir)
    theta, stats = jax.device_get((run.theta, run.theta_stats))
    f = run.game.frozen(theta, stats)
    x = np.asarray(scale(jnp.asarray(data.x_test[:images])))
    y = np.asarray(data.y_test[:images])
    parts = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((theta, stats))]
    radii = {n: fraction(config["eps"]) if radius is None else radius for n, radius in eps.items()}
    return Net(
        f"{config['dataset']} {config['method']}",
        {"model": config["model"], "which": which, "images": len(x), "config": config},
        f,
        {"twin": twin(theta, stats, mean=data.mean, std=data.std), "bridge": Bridge(f)},
        x,
        y,
        radii,
        hashlib.sha256(b"".join([*parts, x.tobytes(), y.tobytes()])).hexdigest(),
    )


def _numbers(text: str, name: str, count: int) -> list[int]:
    """One number for all, or one for each of `count`."""
    values = text.split(",")
    if len(values) not in (1, count) or not all(v.isdigit() and int(v) > 0 for v in values):
        raise InputError(f"--{name}={text} must be {count} positive numbers, joined by commas")
    return [int(v) for v in values] * (1 if len(values) == count else count)


def _radii(text: str | None, name: str, count: int) -> list[float | None]:
    if text is None:
        return [None] * count
    values = text.split(",")
    if len(values) not in (1, count):
        raise InputError(f"--{name}={text} must be 1 or {count} radii, joined by commas")
    return [fraction(v) for v in values] * (1 if len(values) == count else count)


def settle(given: dict[str, Any]) -> dict[str, Any]:
    """The options with their lists read, or a InputError."""
    options = defaults(FLAGS) | given
    if not options["workdirs"]:
        raise InputError("--workdirs=FOLDER,... of runs is needed")
    for name, known in (("norms", NORMS), ("models", ("twin", "bridge"))):
        options[name] = options[name].split(",")
        for word in options[name]:
            if word not in known:
                raise InputError(nearest(f"--{name}", word, known))
    if "l2" in options["norms"] and not options["eps_l2"]:
        raise InputError("--eps_l2=RADIUS,... is needed, or --norms=linf")
    for name, least in (("chance_images", 1), ("seeds", 2), ("batch_size", 1)):
        if options[name] < least:
            raise InputError(f"--{name}={options[name]} must be at least {least}")
    options["workdirs"] = options["workdirs"].split(",")
    runs = len(options["workdirs"])
    options["images"] = _numbers(options["images"], "images", runs)
    options["budget"] = _numbers(options["budget"], "budget", 4)
    radii = {"linf": _radii(options["eps"], "eps", runs)}
    radii["l2"] = _radii(options["eps_l2"], "eps_l2", runs)
    options["radii"] = [{norm: radii[norm][i] for norm in options["norms"]} for i in range(runs)]
    return options


def measure(options: dict[str, Any]) -> dict[str, Any]:
    """Every row of the report; what an earlier run has finished is read."""
    try:
        import torch

        from official.measure import free_running, parity, without_chance
    except ImportError as error:
        raise InputError(f"{error.name} is missing: pip install -e '.[crosscheck]'") from None
    torch.set_num_threads(1)
    sources()
    each = zip(options["workdirs"], options["radii"], options["images"], strict=True)
    nets = [open_net(w, options["which"], eps, n, options["data_dir"]) for w, eps, n in each]
    if len({net.name for net in nets}) < len(nets):
        nets = [net._replace(name=f"{net.name} {i}") for i, net in enumerate(nets, 1)]
    kept = Kept(pathlib.Path(options["cache"]), only=options["finished"])
    kept.folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "nets": {net.name: net.about | {"eps": net.eps} for net in nets},
        "parity": [row for net in nets for row in parity(net)],
        "without_chance": [],
        "cascade": [],
        "unfinished": [],
    }
    pairs = [(net, norm) for net in nets for norm in options["norms"]]
    for net, norm in pairs:
        for via in options["models"]:
            try:
                for row in without_chance(net, norm, via, options, kept):
                    report["without_chance"].append(row)
            except Unfinished as part:
                report["unfinished"].append(str(part))
    for net, norm in pairs:
        try:
            report["cascade"].append(free_running(net, norm, options, kept))
        except Unfinished as part:
            report["unfinished"].append(str(part))
    return report


def agree(given: dict[str, Any]) -> int:
    """Measure what is missing, judge, write."""
    options = settle(given)
    prepare(options["compilation_cache"])
    report = measure(options)
    report["judged"] = judge_cascades(report["cascade"])
    report["misses"] = misses(report)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "pyautoattack")}
    report["made_with"] = describe() | versions
    report["options"] = {name: options[name] for name in ("budget", "seeds", "batch_size")}
    places = ("data_dir", "cache", "compilation_cache", "finished")
    report["command"] = "python benchmarks/agreement.py " + " ".join(
        shlex.quote(f"--{name}={value}") for name, value in given.items() if name not in places
    )
    out = pathlib.Path(options["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out.with_suffix(".json"), report)
    out.with_suffix(".md").write_text(page(report))
    print(page(report))
    return 1 if report["misses"] else 0


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("agreement.py", __doc__, FLAGS, agree, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
