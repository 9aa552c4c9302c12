r"""Claim (b) of the RNN paper: how far up does an inner optimiser come in T gradients?

    python benchmarks/inner_optimisers.py --out=results/inner_optimisers \
        --workdirs=runs/digits-pgm-1,runs/digits-pgm-2,runs/digits-pgm-3

phi is trained on the first net alone, with training images, and held fixed. Then every optimiser
climbs on the other nets, with test images and from the same random starts; what counts is the mean
cross-entropy after T = 1 .. 20 gradients. The hand-made ones are given more: the step sizes of PGD
are tuned on each of those nets, with its validation images and for every T anew; the bound of the
learned steps only on the first net, with training images (it also plays untuned, as trained).
--phi=WORKDIR,... lets the phi of rnn_adv runs play as well. Writes OUT.json, OUT.md and OUT.png.
"""

import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from climbs import (
    BOUNDED,
    CONSTANT,
    DECAYING,
    Hill,
    Learned,
    auto_pgd,
    bounds,
    constant_step,
    decaying_step,
    play_learned,
    tune,
)
from inner_optimisers_page import APGD, BEST, DECAY, LEARNED, RIVALS, TUNED, page, summarise
from l2ljax.ball import per_image, scale, uniform
from l2ljax.commands.flags import figures_or_none, run_main
from l2ljax.data import Dataset
from l2ljax.errors import InputError
from l2ljax.machine import describe, prepare
from l2ljax.models import CoordinateLSTM
from l2ljax.plugins import Plugins
from l2ljax.runs.config import write_json
from l2ljax.runs.evaluation import open_classifiers, read_comparable, short_names
from l2ljax.runs.run import WHICH, images_of, load_data, load_run
from l2ljax.settings import Setting, check_eps, defaults
from l2ljax.solvers.recurrent import PREPROCESS, WEIGHTS
from learn_to_climb import stages, train

FLAGS = [
    Setting(
        "workdirs", str, "runs joined by commas: phi is trained on the first, the others judge"
    ),
    Setting("phi", str, "runs of rnn_adv or rnn_trades whose phi plays as well", ""),
    Setting("phi_seeds", str, "seeds of phi's start and of its training batches", "0,1,2"),
    Setting(
        "t_train", str, "steps T that phi is trained with; of several, one after the other", "10"
    ),
    Setting("t_max", int, "the largest T that is played", 20),
    Setting("hidden", int, "size of the LSTM's state", 10),
    Setting("pre", tuple(PREPROCESS), "what the cell sees of a gradient", "sign_log"),
    Setting("weights", tuple(WEIGHTS), "weights of the losses on the way", "ones"),
    Setting(
        "bound", float, "largest learned step over eps, where T steps of it cross the ball", 0.5
    ),
    Setting("learned_step", bool, "learn the step too, not the direction alone", True),
    Setting("ascents", str, "steps of phi's training, for each T of --t_train", "1000"),
    Setting(
        "phi_lr", str, "Adam's rate at first, for each T; it falls to 0 along a cosine", "0.01"
    ),
    Setting("phi_batch", int, "images per ascent", 64),
    Setting("eps", "fraction", "radius on the [0, 1] scale; the training one, if the runs agree"),
    Setting("which", WHICH, "the nets' checkpoints", "best"),
    Setting("num_examples", int, "the first so many test and validation images", 1000),
    Setting("draws", int, "draws of the bootstrap", 10_000),
    Setting("seed", int, "seed of the random starts", 0),
    Setting("data_dir", str, "where the data set lies; the user's cache folder"),
    Setting("out", str, "path of what is written, without its ending", "runs/inner_optimisers"),
    Setting("plots", bool, "draw OUT.png (extra: plots)", True),
    Setting("compilation_cache", str, "folder of compiled programs; empty turns it off", "user"),
]

Played = tuple[Learned, list[float]]
"""A learned optimiser and the bound of its steps for every T."""

PRIVATE = ("data_dir", "compilation_cache")
"""Folders of this machine, which a report does not name."""


def taken_from(workdir: str) -> Learned:
    """The phi of a run, as it was trained."""
    run = load_run(workdir)
    config = run.config
    if config.get("rnn_input") is None:
        raise InputError(f"--phi={workdir}: {config['method']} trains no RNN optimiser")
    cell = CoordinateLSTM(config["rnn_hidden"])
    bound = config.get("rnn_bound") or 1 / 2
    return Learned(cell, config["rnn_input"], bound, config["rnn_learned_step"], run.state.phi)


def hill(f: Partial, x: np.ndarray, y: np.ndarray, eps: float, o: dict) -> Hill:
    """The first so many of these images, from random starts that only the row decides."""
    images, labels = scale(jnp.asarray(x[: o["num_examples"]])), y[: o["num_examples"]]
    start = uniform(per_image(jax.random.key(o["seed"]), len(images)), images, eps)
    return Hill(f, images, jnp.asarray(labels), start, eps, o["t_max"])


def judge(
    f: Partial, data: Dataset, players: Mapping[str, Sequence[Played]], eps: float, o: dict
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Losses [seeds, T, test images] of every player on one net, and the steps that PGD chose."""
    held_out, test = (hill(f, *images_of(data, split), eps, o) for split in ("val", "test"))
    steps = {
        DECAY: tune(decaying_step, held_out, DECAYING),
        BEST: tune(constant_step, held_out, CONSTANT),
    }
    losses = {
        name: np.stack([play_learned(player, test, chosen) for player, chosen in seeds])
        for name, seeds in players.items()
    }
    losses[DECAY] = decaying_step(test, steps[DECAY])[None]
    losses[BEST] = constant_step(test, steps[BEST])[None]
    losses[APGD] = auto_pgd(test)[None]
    return losses, steps


def bench(given: dict[str, Any]) -> int:
    """Train phi, judge all, print, write, draw."""
    options = defaults(FLAGS) | given
    workdirs, plugins = _checked(options), Plugins()
    configs, eps = read_comparable(workdirs, eps=options["eps"], split="test", plugins=plugins)
    if len({config["val_size"] for config in configs.values()}) > 1:
        raise InputError("the runs held out different validation images (--val_size)")
    out = pathlib.Path(options["out"])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out={out} cannot be written: {error.strerror}") from None
    prepare(options["compilation_cache"])
    nets = open_classifiers(workdirs, which=options["which"], plugins=plugins)
    data = load_data(next(iter(configs.values())), options["data_dir"])
    (home, first), *others = nets.items()
    seeds, radius = options["phi_seeds"].split(","), check_eps(eps)
    given_phi = short_names(list(filter(None, options["phi"].split(","))))
    players: dict[str, list[Played]] = {LEARNED: [], TUNED: []}
    for name, workdir in given_phi.items():
        player = taken_from(workdir)
        players[name] = [(player, bounds(player, options["t_max"]))]
    seen = np.asarray(data.x_train), np.asarray(data.y_train), radius
    for seed in seeds:
        print(f"training phi on {home}, seed {seed}", file=sys.stderr)
        player = train(first.f, *seen, int(seed), options)
        players[LEARNED].append((player, bounds(player, options["t_max"])))
        chosen = tune(partial(play_learned, player), hill(first.f, *seen, options), BOUNDED)
        players[TUNED].append((player, chosen))
    found: dict[str, Any] = {}
    steps: dict[str, Any] = {TUNED: [chosen for _, chosen in players[TUNED]]}
    for name, net in others:
        print(f"judging on {name}", file=sys.stderr)
        found[name], steps[name] = judge(net.f, data, players, radius, options)
    order = [*players, *RIVALS]
    losses = {p: np.stack([found[name][p] for name in found]) for p in order}
    changed = {f.name: options[f.name] for f in FLAGS if options[f.name] != f.default}
    shown = [f"--{name}={value}" for name, value in changed.items() if name not in PRIVATE]
    report = {
        "command": shlex.join(["python", "benchmarks/inner_optimisers.py", *shown]),
        "dataset": data.name,
        "images": losses[APGD].shape[-1],
        "eps": eps,
        "trained_on": home,
        "judged_on": [*found],
        "phi_seeds": seeds,
        **summarise(losses, options["draws"]),
        "chosen_steps": steps,
        "options": options | dict.fromkeys(PRIVATE),
        "made_with": describe(),
    }
    files = {kind: out.with_name(f"{out.name}.{kind}") for kind in ("json", "md", "png")}
    write_json(files["json"], report)
    files["md"].write_text(page(report))
    print(page(report))
    if options["plots"] and figures_or_none() is not None:
        from l2ljax.figures import draw_inner_optimisers

        print(f"drew {draw_inner_optimisers(files['png'], report)}")
    return 0


def _checked(options: dict[str, Any]) -> dict[str, str]:
    stages(options)
    for name in ("t_max", "hidden", "bound", "phi_batch", "num_examples", "draws"):
        if options[name] <= 0:
            raise InputError(f"--{name}={options[name]} must be positive")
    if not all(seed.isdigit() for seed in options["phi_seeds"].split(",")):
        raise InputError(f"--phi_seeds={options['phi_seeds']} is no list of seeds such as 0,1,2")
    workdirs = list(dict.fromkeys(filter(None, (options["workdirs"] or "").split(","))))
    if len(workdirs) < 2:
        raise InputError("--workdirs=TRAINED_ON,JUDGED_ON,... of two runs or more are needed")
    return short_names(workdirs)


def main(argv: Sequence[str]) -> int:
    """The command line."""
    return run_main("inner_optimisers.py", __doc__, FLAGS, bench, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
