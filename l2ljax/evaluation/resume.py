"""An evaluation that may be interrupted: the state of every image in one file.

The file is written whole or not at all and sealed with a sha256 of its bytes. The same evaluation
goes on from it; any other is refused and told what differs.
"""

import hashlib
import io
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from l2ljax.attacks.cascade import CLEAN, Run, State, share_of_work
from l2ljax.attacks.specs import Attack
from l2ljax.errors import InputError
from l2ljax.terminal import Interrupted, Progress, Stop
from l2ljax.types import Array

SAVE_SECONDS = 30
"""Between two writes of the state; a write that takes long is made less often."""

BAR_PARTS = 1000
"""Into how many the progress bar divides an attack."""

SEAL = 32
"""Bytes of the sha256 in front of the file."""

Begun = dict[str, tuple[State, dict[int, float]]]
"""By the attack's name: its state, and the seconds that each of its runs has had."""


def digest(*arrays: np.ndarray) -> str:
    """What tells these arrays from any others."""
    whole = hashlib.sha256()
    for array in arrays:
        content = np.ascontiguousarray(array).tobytes()
        whole.update(f"{array.dtype} {array.shape}".encode() + content)
    return whole.hexdigest()[:16]


def weights_digest(f: Callable[[Array], Array]) -> str | None:
    """What tells the weights of a `Partial(apply, weights)` from any others; None of another f."""
    leaves = jax.tree.leaves(f) if isinstance(f, Partial) else []
    return digest(*map(np.asarray, jax.device_get(leaves))) if leaves else None


class StateFile:
    """The file of an evaluation that is described by `identity`, a flat dict of its settings."""

    def __init__(self, path: str | pathlib.Path, identity: Mapping[str, Any]) -> None:
        self.path = pathlib.Path(path)
        if not self.path.parent.is_dir():
            raise InputError(
                f"{self.path} cannot be written: there is no folder {self.path.parent}"
            )
        self.identity = json.loads(json.dumps(identity))

    def load(self) -> Begun:
        """What was begun; nothing if there is no file."""
        if not self.path.exists():
            return {}
        sealed = self.path.read_bytes()
        if hashlib.sha256(sealed[SEAL:]).digest() != sealed[:SEAL]:
            raise InputError(f"{self.path} is damaged: delete it to evaluate from the start")
        with np.load(io.BytesIO(sealed[SEAL:])) as arrays:
            document = json.loads(str(arrays["document"]))
            mine, theirs = self.identity, document["identity"]
            other = [k for k in {**theirs, **mine} if mine.get(k) != theirs.get(k)]
            if other:
                changed = "; ".join(f"{k}: {theirs.get(k)} -> {mine.get(k)}" for k in other)
                raise InputError(
                    f"{self.path} is of another unfinished evaluation ({changed}): "
                    "finish that one, delete the file, or name another one"
                )
            return {
                entry["attack"]: (
                    State(fell=arrays[f"fell{i}"], x_adv=arrays[f"x_adv{i}"], **entry["state"]),
                    {int(run): spent for run, spent in entry["seconds"].items()},
                )
                for i, entry in enumerate(document["begun"])
            }

    def save(self, begun: Begun) -> None:
        """All of it, or what was there before."""
        arrays: dict[str, Any] = {}
        entries = []
        for i, (attack, (state, seconds)) in enumerate(begun.items()):
            fields = state._asdict()
            arrays |= {f"{name}{i}": fields.pop(name) for name in ("fell", "x_adv")}
            entries.append({"attack": attack, "state": fields, "seconds": seconds})
        document = {"identity": self.identity, "begun": entries}
        buffer = io.BytesIO()
        np.savez(buffer, document=np.array(json.dumps(document)), **arrays)
        content = buffer.getvalue()
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_bytes(hashlib.sha256(content).digest() + content)
        os.replace(partial, self.path)


class Watcher:
    """What happens after every batch: draw the bar, save what is due, stop if a signal asks for it.

    SIGTERM and Ctrl-C are heeded where there is a file to save to, in the main thread: elsewhere
    Python allows no handler, and Ctrl-C is the caller's own.
    """

    def __init__(self, state_file: StateFile | None, begun: Begun, *, progress: bool) -> None:
        self._file, self._begun, self._progress = state_file, begun, progress
        self._saved_at, self._cost = time.monotonic(), 0.0
        self._bar: Progress | None = None
        self._attack = ""
        heeds = state_file is not None and threading.current_thread() is threading.main_thread()
        self._stop = Stop() if heeds else None

    def __enter__(self) -> "Watcher":
        if self._stop is not None:
            self._stop.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._stop is not None:
            self._stop.__exit__(kind, error, trace)
        self.save()  # also what stood when something went wrong

    def after_batch(self, attack: Attack, runs: list[Run], state: State) -> None:
        """An `Interrupted` if a signal came."""
        if self._progress:
            self._show(attack, runs, state)
        if self._stop is not None and self._stop.signal:
            done = 100 * share_of_work(state, runs)
            raise Interrupted(self._stop.signal, f"{done:.0f} % of {attack.name}")
        if time.monotonic() - self._saved_at > max(SAVE_SECONDS, 20 * self._cost):
            self.save()

    def save(self) -> None:
        """Write the state now, if there is a file for it."""
        if self._file is None:
            return
        began = time.monotonic()
        self._file.save(self._begun)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - began

    def _show(self, attack: Attack, runs: list[Run], state: State) -> None:
        """One bar per attack: its work, of which survivors are all that is left."""
        done = int(BAR_PARTS * share_of_work(state, runs))
        if attack.name != self._attack:
            if self._bar is not None:
                self._bar.close()
            self._attack = attack.name
            self._bar = Progress(BAR_PARTS, label=attack.name, done=done, unit=None)
        assert self._bar is not None
        name = "clean" if state.run == CLEAN else runs[state.run].name
        standing = f"{int(state.robust.sum())} of {len(state.fell)} stand"
        self._bar.update(done, run=f"{name},", images=standing)
