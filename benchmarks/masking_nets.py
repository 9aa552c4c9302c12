"""The nets that the masking checks are calibrated on: honest, masked and learned ones, on digits.

The labels say how a net was made, not what a check says of it. Honest nets learn against PGM and
keep the best validation epoch; masked ones learn against a single step and keep the last epoch,
or are honest nets in a disguise of `masked_models.py`.
"""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.checkpoint import CheckpointsInMemory
from l2ljax.commands.search import try_once
from l2ljax.data import Dataset
from l2ljax.runs.config import Config, resolve
from l2ljax.runs.feed import Feed
from l2ljax.runs.from_config import game_of
from l2ljax.runs.run import Run
from l2ljax.types import State
from masked_models import WRAPPERS, WithDropout, in_batch_mode


class Net(NamedTuple):
    """`inside` is the net that a disguise is put on, `sibling` the one that images come from.

    `fresh`: trained after the rule was settled by which the limits are chosen.
    """

    name: str
    kind: str
    flags: dict[str, Any]
    seed: int
    sibling: str
    fresh: bool
    disguise: str = ""
    inside: str = ""


MLP, CNN, WRN = {"model": "mlp"}, {"model": "small_cnn"}, {"model": "wrn-10-1"}
CE = {"attack_loss": "ce", "label_smoothing": 0.0}
MIX = CE | {"clean_mix": True}

HONEST: dict[str, dict[str, Any]] = {
    "pgm-mlp-0.2": MLP,
    "pgm-mlp-0.1": MLP | {"eps": "0.1", "inner_step": "0.025"},
    "pgm-mlp-0.3": MLP | {"eps": "0.3", "inner_step": "0.075"},
    "pgm-mlp-0.2-mix": MLP | MIX,
    "pgm-mlp-0.15-5": MLP | CE | {"eps": "0.15", "inner_steps": 5, "inner_step": "0.0375"},
    "pgm-cnn-0.2": CNN,
    "pgm-cnn-0.1": CNN | {"eps": "0.1", "inner_step": "0.025"},
    "pgm-cnn-0.15-mix": CNN | MIX | {"eps": "0.15", "inner_step": "0.0375"},
    "pgm-wrn-10-1-0.2": WRN,
    "pgm-wrn-10-1-0.1": WRN | CE | {"eps": "0.1", "inner_step": "0.025"},
    "pgm-wrn-10-1-0.3": WRN | {"eps": "0.3", "inner_step": "0.075"},
    "pgm-wrn-10-1-0.2-20": WRN | MIX | {"inner_steps": 20, "inner_step": "0.025"},
    "pgm-wrn-10-2-0.2": {},
    "pgm-wrn-16-1-0.15": {"model": "wrn-16-1", "eps": "0.15", "inner_step": "0.0375"},
    "plain-mlp-0.1": MLP | {"method": "plain", "eps": "0.1"},
    "plain-wrn-10-1-0.1": WRN | {"method": "plain", "eps": "0.1"},
}
"""PGM nets of several sizes, radii, losses and lengths, and two Plain nets: weak, but honest."""

FGSM = MIX | {"method": "fgsm", "ema_decay": 0.0}
FAST = MIX | {"method": "pgm", "inner_steps": 1, "ema_decay": 0.0}

SINGLE_STEP: dict[str, dict[str, Any]] = {
    "fgsm-mlp-0.3": MLP | FGSM | {"eps": "0.3"},
    "fgsm-mlp-0.4": MLP | FGSM | {"eps": "0.4"},
    "fgsm-mlp-0.4-nomix": MLP | FGSM | {"eps": "0.4", "clean_mix": False},
    "fgsm-cnn-0.3": CNN | FGSM | {"eps": "0.3", "dropout": 0.0},
    "fgsm-cnn-0.4": CNN | FGSM | {"eps": "0.4", "dropout": 0.0, "theta_lr": 0.05},
    "fgsm-wrn-10-1-0.3": WRN | FGSM | {"eps": "0.3"},
    "fgsm-wrn-10-1-0.4": WRN | FGSM | {"eps": "0.4"},
    "fast-at-wrn-10-1-0.4": WRN | FAST | {"eps": "0.4", "inner_step": "0.5"},
    "fast-at-mlp-0.4": MLP | FAST | {"eps": "0.4", "inner_step": "0.5"},
    "fgsm-wrn-10-2-0.4": FGSM | {"eps": "0.4"},
}
"""FGSM Nets and Fast-AT at radii where a single step overfits catastrophically; no selection."""

LEARNED: dict[str, dict[str, Any]] = {
    "grad_l2l-mlp-0.2": MLP | {"method": "grad_l2l"},
    "grad_l2l-wrn-10-1-0.2": WRN | {"method": "grad_l2l"},
    "two_step_l2l-mlp-0.2": MLP | {"method": "two_step_l2l"},
    "naive_l2l-mlp-0.1": MLP | {"method": "naive_l2l", "eps": "0.1"},
}
"""They have verdicts, and count for no error rate."""

FRESH_HONEST: dict[str, dict[str, Any]] = {
    "pgm-mlp-0.2-ce": MLP | CE,
    "pgm-mlp-0.1-mix": MLP | MIX | {"eps": "0.1", "inner_step": "0.025"},
    "pgm-mlp-0.15": MLP | {"eps": "0.15", "inner_step": "0.0375"},
    "pgm-cnn-0.2-mix": CNN | MIX,
    "pgm-cnn-0.1-ce": CNN | CE | {"eps": "0.1", "inner_step": "0.025"},
    "pgm-wrn-10-1-0.2-again": WRN,
    "pgm-wrn-10-1-0.2-20-again": WRN | MIX | {"inner_steps": 20, "inner_step": "0.025"},
    "pgm-wrn-10-1-0.15-mix": WRN | MIX | {"eps": "0.15", "inner_step": "0.0375"},
    "plain-cnn-0.1": CNN | {"method": "plain", "eps": "0.1"},
}

FRESH_SINGLE_STEP: dict[str, dict[str, Any]] = {
    "fgsm-mlp-0.35": MLP | FGSM | {"eps": "0.35"},
    "fgsm-wrn-10-1-0.4-again": WRN | FGSM | {"eps": "0.4"},
    "fast-at-cnn-0.4": CNN | FAST | {"eps": "0.4", "inner_step": "0.5", "theta_lr": 0.05},
}
"""Trained after the rule by which the limits are chosen had been settled."""

TABLES = (
    ("honest", HONEST, False),
    ("single-step", SINGLE_STEP, False),
    ("learned", LEARNED, False),
    ("honest", FRESH_HONEST, True),
    ("single-step", FRESH_SINGLE_STEP, True),
)

DISGUISES: dict[str, tuple[str, str]] = {
    "killed_gradient": ("pgm-mlp-0.2", "pgm-mlp-0.1"),
    "softmax_outputs": ("pgm-wrn-10-1-0.2", "pgm-mlp-0.3"),
    "noise": ("pgm-mlp-0.3", "pgm-cnn-0.1"),
    "quantised_input": ("pgm-mlp-0.2-mix", "pgm-wrn-10-1-0.1"),
    "large_logits": ("pgm-mlp-0.15-5", "plain-mlp-0.1"),
    "shattered": ("pgm-mlp-0.2-mix", "plain-mlp-0.1"),
    "batch_mode": ("pgm-wrn-10-1-0.3", "pgm-wrn-10-1-0.2"),
    "dropout": ("pgm-cnn-0.15-mix", "pgm-cnn-0.1"),
}
"""Each disguise on two honest nets."""

FRESH_DISGUISES = {
    "killed_gradient": ("pgm-mlp-0.15",),
    "softmax_outputs": ("pgm-mlp-0.2-ce",),
    "quantised_input": ("pgm-mlp-0.15",),
    "large_logits": ("pgm-mlp-0.2-ce",),
    "shattered": ("pgm-mlp-0.1-mix",),
}


def nets() -> list[Net]:
    """All of them; a sibling is the honest net that is next in the first table."""
    honest, found = list(HONEST), {}
    for kind, table, fresh in TABLES:
        for i, (name, flags) in enumerate(table.items()):
            sibling, seed = honest[(i + 1) % len(honest)], i + 100 * fresh
            found[name] = Net(name, kind, {"method": "pgm"} | flags, seed, sibling, fresh)
    for disguises in (DISGUISES, FRESH_DISGUISES):
        for disguise, insides in disguises.items():
            for inside in insides:
                changes = {"kind": "disguised", "disguise": disguise, "inside": inside}
                name = f"{disguise}:{inside}"
                found[name] = found[inside]._replace(name=name, **changes)
    return list(found.values())


def train_last(config: Config, data: Dataset, seed: int) -> State:
    """A run without files and without selection: the state of the last epoch."""
    game = game_of(config, data)
    state = game.init(seed)
    feed = Feed(data, seed, layout=game.layout, batch_size=game.batch_size)
    for epoch in range(config["epochs"]):
        for n, arguments in feed.epoch(epoch, 0):
            state, _ = game.program(n, state, *arguments)(state, *arguments)
    return state


def disguised(run: Run, disguise: str) -> Callable[[jax.Array], jax.Array]:
    """x -> logits of the net in that disguise, or as it is."""
    theta, stats, apply = run.theta, run.theta_stats, run.game.apply
    if disguise == "batch_mode":
        return in_batch_mode(apply, theta, stats)
    if disguise == "dropout":
        return WithDropout(apply, theta, stats)
    return WRAPPERS[disguise](run.classifier) if disguise else run.classifier


def make(net: Net, data: Dataset, folder: pathlib.Path) -> Run:
    """Trained, or read back from the folder: theta, phi and their statistics are right there."""
    path = folder / f"{net.inside or net.name}.npz"
    config = resolve({"dataset": "digits", "recipe": "quick", **net.flags})
    if not path.exists():
        if net.kind == "single-step":
            state = train_last(config, data, net.seed)
        else:
            run = try_once(config, data, net.seed)
            state = run.state._replace(theta=run.theta, theta_stats=run.theta_stats)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, *(np.asarray(leaf) for leaf in jax.tree.leaves(_kept(state))))
        partial.replace(path)
    game, checkpoints = game_of(config, data), CheckpointsInMemory()
    state = game.init(net.seed)
    with np.load(path) as leaves:
        kept = jax.tree.unflatten(
            jax.tree.structure(_kept(state)), [jnp.asarray(a) for a in leaves.values()]
        )
    checkpoints.save(0, state._replace(**kept), {}, kind="best")
    return Run(game, checkpoints, "best", config=config)


def _kept(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ("theta", "theta_stats", "phi", "phi_stats")}
