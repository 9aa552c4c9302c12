"""Attacks over a set: a progress bar with time left, a state file that survives an interrupt."""

import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from l2ljax.attacks import checks
from l2ljax.attacks.cascade import CLEAN, Run, State, share_of_work
from l2ljax.attacks.loop import classifier
from l2ljax.attacks.specs import Attack, Parts
from l2ljax.evaluation.accuracy import Result
from l2ljax.evaluation.accuracy import evaluate as attack_all
from l2ljax.evaluation.unfinished import Begun, Unfinished
from l2ljax.parallel import Layout
from l2ljax.progress import Progress
from l2ljax.signals import Interrupted, Stop

SAVE_SECONDS = 30
"""Between two writes of the state; a write that takes long is made less often."""

PARTS = 1000
"""Into how many the progress bar divides an attack."""


def measure(
    f: Callable,
    x: np.ndarray,
    y: np.ndarray,
    attacks: Sequence[Attack],
    *,
    eps: float,
    norm: str,
    batch_size: int,
    layout: Layout,
    seed: int,
    keep: bool,
    unfinished: Unfinished,
) -> list[Result]:
    """Every attack over the whole set, from where the unfinished evaluation stopped."""
    begun = unfinished.load()
    if begun:
        print(f"goes on from {unfinished.path}", file=sys.stderr)
    with Stop() as stop, Bars() as bars:
        saving = _Saving(unfinished, begun)

        def on_batch(attack: Attack, runs: list[Run], state: State) -> None:
            bars.show(attack, runs, state)
            if stop.signal:
                saving.now()
                done = 100 * share_of_work(state, runs)
                raise Interrupted(stop.signal, f"{done:.0f} % of {attack.name}")
            saving.if_due()

        return attack_all(
            jax.random.key(seed),
            layout.put_for_evaluation(classifier(f)),
            x,
            y,
            attacks,
            eps=eps,
            norm=norm,
            batch_size=layout.round_up(min(batch_size, len(x))),
            keep=keep,
            begun=begun,
            on_batch=on_batch,
            share=layout.split_for_evaluation,
        )


def warnings(
    f: Callable, x: np.ndarray, y: np.ndarray, attacks: Sequence[Attack], batch_size: int
) -> list[str]:
    """What the official suite would say of the classifier on the first batch."""
    parts = [part for attack in attacks for _, part in attack.parts if isinstance(part, Parts)]
    names = {name for part in parts for name in part.names}
    if not names:
        return []
    sample = checks.first_batch(x, y, batch_size)
    return list(checks.before(f, sample, names, max(part.budget.targets for part in parts)))


def after_warnings(results: Sequence[Result]) -> list[str]:
    """What it would say of the outcome, and what makes an accuracy doubtful."""
    found = [checks.square_helps({step.attack: step.accuracy for step in r.after}) for r in results]
    doubts = [f"{r.attack}: {line}" for r in results for line in r.warnings]
    return [line for line in found if line is not None] + doubts


class _Saving:
    def __init__(self, unfinished: Unfinished, begun: Begun) -> None:
        self._unfinished, self._begun = unfinished, begun
        self._last, self._cost = time.monotonic(), 0.0

    def now(self) -> None:
        began = time.monotonic()
        self._unfinished.save(self._begun)
        self._last = time.monotonic()
        self._cost = self._last - began

    def if_due(self) -> None:
        if time.monotonic() - self._last > max(SAVE_SECONDS, 20 * self._cost):
            self.now()


class Bars:
    """One bar per attack: its work, of which survivors are all that is left."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._attack = ""

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the line of the bar that is drawn."""
        if self._bar is not None:
            self._bar.close()

    def show(self, attack: Attack, runs: list[Run], state: State) -> None:
        """Draw how far the attack is."""
        done = int(PARTS * share_of_work(state, runs))
        if attack.name != self._attack:
            self.close()
            self._attack = attack.name
            self._bar = Progress(PARTS, label=attack.name, done=done, unit=None)
        assert self._bar is not None
        name = "clean" if state.run == CLEAN else runs[state.run].name
        standing = f"{int(state.robust.sum())} of {len(state.fell)} stand"
        self._bar.update(done, run=f"{name},", images=standing)
