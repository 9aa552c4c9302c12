"""A few steps of several methods in several layouts, one after another, to be compared.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python on_devices.py OUT none,pmap f32
    python on_devices.py OUT pmap f32 --coordinator=localhost:1234 --num_processes=2 --process_id=0

Writes OUT-KIND.npz for each: of every method the gradients of the first step (what momentum holds
after it), the losses of twenty, in float32 of five, and the number of programs. In float32 a ReLU
whose input is a rounding away from 0, or a sign, falls differently now and then and parts two runs
for good: within twenty steps of Grad L2L in one of five seeds, of PGM in two. In float64 none does.
"""

import sys

import jax
import numpy as np

from l2ljax.commands.flags import parse
from l2ljax.data import load
from l2ljax.hosts import HOSTS, join
from l2ljax.parallel import is_first_process
from l2ljax.runs import config as configuration
from l2ljax.runs import game as games
from l2ljax.runs.feed import Feed
from l2ljax.runs.from_config import game_of, layout_of
from l2ljax.settings import defaults

L2L = {"attacker": "two_layer", "attacker_width": 0.03125}
# Of a batch in parts an image must get the same noise, crop and dropout on any number of devices.
METHODS = {
    "plain": {},
    "pgm": {"inner_steps": 2, "attacker_start": "uniform", "accumulate": 2},
    "grad_l2l": L2L,
}
STEPS = {"f32": 5, "f64": 20}
SEED = 1
"""With 0 one slope of 56 tensors is 1.1e-5 of its maximum away in float32, and equal in float64."""
COMMON = {
    "dataset": "digits",
    "model": "wrn-10-1",
    "batch_size": 32,
    "augment": "crop",
    "dropout": 0.3,
    "theta_lr": 1e-3,
    "theta_wd": 0.0,
    "theta_schedule": "constant",
    "phi_opt": "sgd",
    "phi_lr": 1e-3,
    "phi_momentum": 0.9,
    "phi_wd": 0.0,
}


def steps(method: str, kind: str, width: str, kept: dict) -> None:
    config = configuration.resolve({**COMMON, "method": method, **METHODS[method]})
    data = load("digits", train_size=STEPS[width] * COMMON["batch_size"])
    game = game_of(config, data, layout_of(config, kind))
    programs = set()
    state = jax.tree.map(widen, game.init(SEED))
    state = game.layout.replicate(state)
    kept[f"{method}/losses"] = losses = []
    for n, arguments in _feed(game, data).epoch(0, 0):
        program = game.program(n, state, *arguments)
        programs.add(id(program))
        state, metrics = program(state, *arguments)
        losses.append(float(game.layout.unreplicate(metrics)["theta/loss"][0]))
        if len(losses) == 1:  # before the next step, which takes these buffers
            single = game.layout.unreplicate(state)
            for player, opt in (("theta", single.opt_theta), ("phi", single.opt_phi)):
                for path, leaf in jax.tree_util.tree_leaves_with_path(opt):
                    kept[f"{method}/{player}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    kept[f"{method}/programs"] = len(programs)


def _feed(game, data):
    sizes = {"batch_size": game.batch_size, "part_size": game.part_size}
    return Feed(data, SEED, layout=game.layout, **sizes)


def widen(leaf):
    wide = jax.config.jax_enable_x64 and np.issubdtype(leaf.dtype, np.floating)
    return leaf.astype(np.float64) if wide else leaf


def main(out: str, kinds: str, width: str, *flags: str) -> None:
    join(defaults(HOSTS) | parse(HOSTS, flags))
    if width == "f64":
        jax.config.update("jax_enable_x64", True)
        narrow = games.take_batch
        games.take_batch = lambda *args, **rest: jax.tree.map(widen, narrow(*args, **rest))
    for kind in kinds.split(","):
        kept: dict = {}
        for method in METHODS:
            steps(method, kind, width, kept)
        if is_first_process():
            np.savez(f"{out}-{kind}.npz", **kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
