"""A run without a folder: its checkpoints and its metrics are kept in memory, for a notebook.

`Checkpoints` and `Record` of a run with a folder have the same methods.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.types import Tree


class CheckpointsInMemory:
    """The newest checkpoint of each kind, copied off the device."""

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self._kept: dict[str, tuple[Tree, str, int]] = {}

    def save(self, step: int, state: Tree, notes: Mapping[str, Any], *, kind: str = "last") -> None:
        """Keep copies of the state and of the notes in place of those of that kind."""
        self._kept[kind] = jax.tree.map(_copy, state), json.dumps(dict(notes)), int(step)

    def restore(self, abstract: Tree, *, kind: str = "last") -> tuple[Tree, dict, int] | None:
        """(state, notes, step) as they were saved; None where nothing was."""
        if kind not in self._kept:
            return None
        state, notes, step = self._kept[kind]
        return jax.tree.map(jnp.array, state), json.loads(notes), step

    def steps(self, kind: str = "last") -> list[int]:
        """The step that is kept, if there is one."""
        return [self._kept[kind][2]] if kind in self._kept else []

    def wait(self) -> None:
        """Nothing is written in the background."""

    def close(self) -> None:
        """Nothing is open."""


def _copy(leaf: Any) -> Any:
    # A copy: the next step may donate the buffer that an array on the CPU shares with JAX.
    return np.array(leaf)


class RecordInMemory:
    """The lines that a run with a folder would write to metrics.jsonl."""

    def __init__(self) -> None:
        """No line yet."""
        self.lines: list[dict[str, float]] = []

    def write(self, step: int, values: Mapping[str, Any], *, epoch: float | None = None) -> None:
        """Keep one line; a number that is not finite becomes nan, as it reads from a file."""
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: x if math.isfinite(x) else math.nan for name, x in numbers.items()}
        when = {} if epoch is None else {"epoch": float(epoch)}
        self.lines.append({"step": int(step), **when, **finite})

    def rewind(self, step: int) -> None:
        """Forget what lies beyond `step`: the run goes on from there."""
        self.lines = [line for line in self.lines if line["step"] <= step]

    def sync(self) -> None:
        """Nothing is on its way to a disk."""

    def close(self) -> None:
        """Nothing is open."""

    def merged(self) -> list[dict[str, float]]:
        """One dict a step, as `record.read` gives them of a file."""
        steps: dict[float, dict[str, float]] = {}
        for line in self.lines:
            steps.setdefault(line["step"], {}).update(line)
        return [steps[step] for step in sorted(steps)]
