"""How a run is carried out, what it remembers in its checkpoints, and what callbacks are told."""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from l2ljax.errors import InputError
from l2ljax.runs.game import Game
from l2ljax.types import State

NOTES: dict[str, Any] = {
    "sums": {},
    "count": 0,
    "best": {},
    "seconds": 0.0,
    "peak": 0.0,  # the best val/robust so far
    "overfitting": [],  # the collapses that the guard has seen
    "collapsed": False,  # whether it saw one in the last epoch
    "stopped": None,  # the epoch with which the run ended before its time
    "stopped_by": None,  # "overfitting" or "callback"
}


class Diverged(InputError):
    """The loss is no number any more."""


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


def check_finite(values: Mapping[str, float], step: int, total: int, checkpoints: Any) -> None:
    """A number among a step's metrics that is none ends the run."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        kept = checkpoints.steps()
        good = f"the last good checkpoint is step {kept[-1]}" if kept else "nothing is saved yet"
        raise Diverged(
            f"{bad[0]} is {values[bad[0]]} at step {step} of {total}; {good}; try a lower "
            "--theta_lr or --phi_lr, --theta_clip=1, or --eps_warmup"
        )
