"""A few steps of two methods in several layouts, one after another, to be compared.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python on_devices.py OUT none,pmap f32
    python on_devices.py OUT pmap f32 --coordinator=localhost:1234 --num_processes=2 --process_id=0

Writes OUT-KIND.npz for each layout. It holds for every method the gradients of the first step (what
momentum has after it), the statistics of both players after it, the losses of all steps and the
number of programs. All layouts of a call start a method from one state, which is drawn once. In
float32 a ReLU whose input is a rounding away from 0, or a sign, falls differently now and then and
parts two runs for good. In float64 none does.
"""

import sys

import flax.linen as nn
import jax
import numpy as np

from l2ljax.commands.flags import parse
from l2ljax.data import load
from l2ljax.hosts import HOSTS, join
from l2ljax.models.layers import batch_norm, conv, head, normalise
from l2ljax.models.residual import WideBlock
from l2ljax.parallel import is_first_process
from l2ljax.plugins import Plugins
from l2ljax.runs import config as configuration
from l2ljax.runs import game as games
from l2ljax.runs.feed import Feed
from l2ljax.runs.from_config import game_of, layout_of
from l2ljax.settings import defaults


class OneBlock(nn.Module):
    """A wide residual net of one block where a whole one has three or more."""

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: nn.dtypes.Dtype
    dropout: float

    @nn.compact
    def __call__(self, x, *, train):
        x = conv(8, dtype=self.dtype, name="stem")(normalise(x, self.mean, self.std, self.dtype))
        x = WideBlock(16, 2, self.dropout, self.dtype, name="block")(x, train)
        x = nn.relu(batch_norm(train, dtype=self.dtype, name="bn")(x)).mean((1, 2))
        return head(x, self.num_classes)


# Of a batch in parts an image must get the same noise, crop and dropout on any number of devices.
METHODS = {
    "pgm": {"inner_steps": 2, "attacker_start": "uniform", "accumulate": 2},
    "grad_l2l": {"attacker": "two_layer", "attacker_width": 0.03125},
}
PLAYED = {"f32": ("grad_l2l",), "f64": ("pgm", "grad_l2l")}
STEPS = {"f32": 5, "f64": 10}
SEED = 2
COMMON = {
    "dataset": "digits",
    "model": f"{__file__}:OneBlock",
    "batch_size": 32,
    "augment": "crop",
    "dropout": 0.3,
    "theta_lr": 1e-2,
    "theta_wd": 0.0,
    "theta_schedule": "constant",
    "phi_opt": "sgd",
    "phi_lr": 1e-2,
    "phi_momentum": 0.9,
    "phi_wd": 0.0,
}


def steps(method: str, kinds: list[str], width: str, kept: dict) -> None:
    """What every layout finds of that method, from one initial state."""
    settings = {**COMMON, "method": method, **METHODS[method]}
    config = configuration.resolve(settings, Plugins([__file__]))
    data = load("digits", train_size=STEPS[width] * COMMON["batch_size"])
    initial = None
    for kind in kinds:
        game = game_of(config, data, layout_of(config, kind))
        if initial is None:
            initial = jax.device_get(jax.tree.map(widen, game.init(SEED)))
        play(game, game.layout.replicate(initial), f"{method}/", kept[kind])


def play(game, state, named: str, kept: dict) -> None:
    """An epoch of steps, and what they leave, under names that begin with the method's."""
    programs, losses = set(), []
    sizes = {"batch_size": game.batch_size, "part_size": game.part_size}
    for n, arguments in Feed(game.data, SEED, layout=game.layout, **sizes).epoch(0, 0):
        program = game.program(n, state, *arguments)
        programs.add(id(program))
        state, metrics = program(state, *arguments)
        losses.append(float(game.layout.unreplicate(metrics)["theta/loss"][0]))
        if len(losses) == 1:  # before the next step, which takes these buffers
            one = game.layout.unreplicate(state)
            for name in ("opt_theta", "opt_phi", "theta_stats", "phi_stats"):
                for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(one, name)):
                    kept[f"{named}{name}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    kept[f"{named}losses"], kept[f"{named}programs"] = losses, len(programs)


def widen(leaf):
    wide = jax.config.jax_enable_x64 and np.issubdtype(leaf.dtype, np.floating)
    return leaf.astype(np.float64) if wide else leaf


def main(out: str, kinds: str, width: str, *flags: str) -> None:
    join(defaults(HOSTS) | parse(HOSTS, flags))
    if width == "f64":
        jax.config.update("jax_enable_x64", True)
        narrow = games.take_batch
        games.take_batch = lambda *args, **rest: jax.tree.map(widen, narrow(*args, **rest))
    kept: dict = {kind: {} for kind in kinds.split(",")}
    for method in PLAYED[width]:
        steps(method, list(kept), width, kept)
    if is_first_process():
        for kind, found in kept.items():
            np.savez(f"{out}-{kind}.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
