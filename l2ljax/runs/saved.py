"""A finished or running run, read back from its workdir: which classifier, with which attacker."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from l2ljax.runs import settings as configuration
from l2ljax.runs.game import Game, load_data, make_game
from l2ljax.checkpoint import Checkpoints, Kind
from l2ljax.errors import CheckpointError
from l2ljax.data import Dataset
from l2ljax.types import State, Tree
from l2ljax.errors import InputError

KINDS: dict[str, Kind] = {
    "best": "best",
    "last": "last",
    "best_ema": "best_ema",
    "last_ema": "last",
}
WHICH = tuple(KINDS)
"""The epoch of the best validation robust accuracy, or the last; theta itself, or its average."""


class Saved(NamedTuple):
    """One checkpoint of a run: theta and its statistics are the raw or the averaged ones."""

    config: dict[str, Any]
    data: Dataset
    game: Game
    state: State
    theta: Tree
    theta_stats: Tree
    notes: dict[str, Any]
    step: int


def choices(config: dict[str, Any]) -> tuple[str, ...]:
    """The checkpoints a run of that configuration has."""
    return WHICH if config["ema_decay"] > 0 else WHICH[:2]


def open_run(workdir: pathlib.Path, data_dir: str | None) -> tuple[dict[str, Any], Dataset, Game]:
    """The configuration of a run, its data and its game."""
    config = configuration.read(workdir)
    data = load_data(config, data_dir)
    return config, data, make_game(config, data)


def images_of(data: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of --split, test or val; a run may have held out none for val."""
    x, y = (data.x_test, data.y_test) if split == "test" else (data.x_val, data.y_val)
    if not len(x):
        raise InputError(f"--split={split}: the run held out no validation images (--val_size=0)")
    return x, y


def restore(
    workdir: pathlib.Path, which: str, config: dict[str, Any], data: Dataset, game: Game
) -> Saved:
    """That checkpoint of the run, verified."""
    if which not in choices(config):
        raise InputError(f"--which={which}: {workdir} kept no average (--ema_decay was 0)")
    kind = KINDS[which]
    with Checkpoints(workdir, report=print) as checkpoints:
        restored = checkpoints.restore(game.abstract, kind=kind)
    if restored is None:
        raise CheckpointError(f"{workdir} holds no {kind} checkpoint yet")
    state, notes, step = restored
    theta, stats = state.theta, state.theta_stats
    if which.endswith("_ema"):
        theta, stats = state.ema, state.ema_stats
    return Saved(config, data, game, state, theta, stats, notes, step)
