"""How a run is carried out, and what it tells its callbacks while it runs."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from l2ljax.runs.game import Game
from l2ljax.types import State


class Options(NamedTuple):
    """How a run is carried out; none of these decides its outcome (settings.OPTIONS says more)."""

    eval_batch: int = 250
    validate_every: int = 1
    diagnose: int = 128
    steps_per_call: int | None = None
    data_on: str | None = None
    profile: bool = False
    log_every: int = 50
    checkpoint_every: int = 1
    checkpoint_minutes: float = 10.0
    tensorboard: bool = False


class EpochEnd(NamedTuple):
    """What a callback is given after every epoch.

    metrics are those of the epoch's line in metrics.jsonl. The arrays of `state` are freed by the
    next step: what a callback wants to keep it copies, `jax.tree.map(numpy.array, state)`.
    """

    epoch: int
    step: int
    metrics: dict[str, float]
    state: State
    game: Game
    workdir: pathlib.Path | None


Callback = Callable[[EpochEnd], Any]
"""Called by the first process after an epoch was validated, and before it is saved.

The run ends with this epoch where it returns True; the checkpoint says so, and the run is not
continued later. On resume callbacks are called for the epochs that are played, and not again for
those that the checkpoint holds: what a callback remembers itself is not stored. An epoch that is
taken back because it has overfitted is told before it is taken back. What a callback raises ends
the run as it would anywhere, and the same call resumes it from the last checkpoint.
"""
