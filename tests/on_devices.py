"""A few steps of two methods in several layouts, one after another, to be compared.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python on_devices.py OUT f32 none:pgm
    python on_devices.py OUT f64 pmap:pgm --coordinator=here:1234 --num_processes=2 --process_id=0

Writes OUT.npz. It holds, for each layout and method, the gradients of the first step (what momentum
holds after it), the BatchNorm statistics after it, the losses of all steps, and the number of
programs. Every layout starts from the same weights, which come from NumPy.

In float32 a ReLU whose input is a rounding away from 0, or a sign, falls differently now and then
and parts two runs for good. In float64 none does.
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from games import EPS, method_of
from l2ljax.commands.flags import parse
from l2ljax.data import Dataset
from l2ljax.hosts import HOSTS, join
from l2ljax.models import make_attacker
from l2ljax.models.layers import batch_norm, conv, head
from l2ljax.models.residual import WideBlock
from l2ljax.parallel import is_first_process, lay_out
from l2ljax.runs import game as games
from l2ljax.runs.feed import Feed
from l2ljax.settings import defaults


class OneBlock(nn.Module):
    """A wide residual net of one block where a whole one has three: every layer of it is there."""

    @nn.compact
    def __call__(self, x, *, train):
        x = conv(4, dtype=x.dtype, name="stem")(x)
        x = WideBlock(8, 2, 0.3, x.dtype, name="block")(x, train)
        x = nn.relu(batch_norm(train, dtype=x.dtype, name="bn")(x)).mean((1, 2))
        return head(x, 10)


# PGM starts from noise and takes its batch in two parts. Grad L2L has an attacker with statistics,
# and divides by the largest slope of the whole batch. Both have crops and dropout.
METHODS = {
    "pgm": {"inner_steps": 1, "attacker_start": "uniform"},
    "grad_l2l": {"grad_norm": "batch_max", "attacker_start": "uniform"},
}
GAMES = {"pgm": {"accumulate": 2, "craft_bn": "eval"}, "grad_l2l": {}}
STEPS = {"f32": 5, "f64": 10}
BATCH, SEED = 16, 2


def data_of(steps):
    draw = np.random.default_rng(SEED)
    x = draw.integers(0, 256, (steps * BATCH, 8, 8, 1), np.uint8)
    y = np.arange(len(x)) % 10
    names = tuple("0123456789")
    return Dataset("noise", x, y, x[:0], y[:0], x[:0], y[:0], 10, names, (0.5,), (0.3,), "crop")


def game_of(method, kind, data):
    attacker = make_attacker("two_layer", 1, width=1 / 32, dtype=jnp.result_type(float))
    tx = optax.sgd(1e-2, 0.9)
    how = GAMES[method]
    return games.make_game(
        OneBlock(),
        method_of(method, attacker, **METHODS[method]),
        data,
        eps=EPS,
        tx_theta=tx,
        tx_phi=tx,
        batch_size=BATCH,
        layout=lay_out(kind, batch_size=BATCH, accumulate=how.get("accumulate", 1)),
        **how,
    )


def initial(abstract):
    """A state at step 0 without a program: kernels of a fitting size, small biases."""
    draw = np.random.default_rng(SEED)

    def fill(path, leaf):
        leaf, name = widen(np.zeros(leaf.shape, leaf.dtype)), jax.tree_util.keystr(path)
        if name.startswith(".opt") or not leaf.ndim:
            return leaf
        if name.endswith(("['scale']", "['var']")):
            return leaf + 1
        if name.endswith("['mean']"):
            return leaf
        fan_in = leaf.size / leaf.shape[-1] if leaf.ndim > 1 else 100
        return leaf + draw.normal(size=leaf.shape).astype(leaf.dtype) / fan_in**0.5

    return jax.tree_util.tree_map_with_path(fill, abstract)


def steps(kind, method, data, kept):
    game = game_of(method, kind, data)
    state = game.layout.replicate(initial(game.abstract))
    sizes = {"batch_size": BATCH, "part_size": game.part_size}
    feed = Feed(data, SEED, layout=game.layout, **sizes)
    programs, losses = set(), []
    for n, arguments in feed.epoch(0, 0):
        program = game.program(n, state, *arguments)
        programs.add(id(program))
        state, metrics = program(state, *arguments)
        losses.append(float(game.layout.unreplicate(metrics)["theta/loss"][0]))
        if len(losses) == 1:  # before the next step, which takes these buffers
            one = game.layout.unreplicate(state)
            for part in ("opt_theta", "opt_phi", "theta_stats", "phi_stats"):
                for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(one, part)):
                    name = f"{kind}/{method}/{part}{jax.tree_util.keystr(path)}"
                    kept[name] = np.asarray(leaf)
    kept[f"{kind}/{method}/losses"] = losses
    kept[f"{kind}/{method}/programs"] = len(programs)


def widen(leaf):
    wide = jax.config.jax_enable_x64 and np.issubdtype(leaf.dtype, np.floating)
    return leaf.astype(np.float64) if wide else leaf


def main(out, width, asked, *flags):
    join(defaults(HOSTS) | parse(HOSTS, flags))
    if width == "f64":
        jax.config.update("jax_enable_x64", True)
        narrow = games.take_batch
        games.take_batch = lambda *args, **rest: jax.tree.map(widen, narrow(*args, **rest))
    data, kept = data_of(STEPS[width]), {}
    for one in asked.split(","):
        steps(*one.split(":"), data, kept)
    if is_first_process():
        np.savez(f"{out}.npz", **kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
