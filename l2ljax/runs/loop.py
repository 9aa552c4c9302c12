"""One training run: the loop, its clock, its files. The same command again resumes it.

A run is a function of (configuration, seed); step and rollbacks in the state say where it is. What
the loop itself carries between steps (the epoch's sums, the best scores) is stored with every
checkpoint, so that a resumed run repeats the uninterrupted one bit for bit, metrics included; also
one that was taken back because an epoch had overfitted (guard.py).
"""

import contextlib
import json
import math
import os
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.runs.feed import Feed
from l2ljax.runs.game import Game
from l2ljax.runs.overfitting import MOST_ROLLBACKS, overfitted, warning
from l2ljax.checkpoint import Checkpoints, Kind
from l2ljax.data import Dataset
from l2ljax.parallel import agree, agree_on, is_first_process, largest
from l2ljax.progress import Progress
from l2ljax.record import Record
from l2ljax.types import State
from l2ljax.errors import InputError
from l2ljax.evaluation.tables import brief
from l2ljax.signals import Interrupted, Stop
from l2ljax.profiler import Profiler
from l2ljax.runs.validation import Validation
from l2ljax.runs.workdir import lock

NOTES: dict[str, Any] = {
    "sums": {},
    "count": 0,
    "best": {},
    "seconds": 0.0,
    "peak": 0.0,  # the best val/robust so far
    "overfitting": [],  # the collapses that the guard has seen
    "collapsed": False,  # whether it saw one in the last epoch
    "stopped": None,  # the epoch with which the guard ended the run
}


CHUNK = 50
"""Steps of one call on an accelerator, where a call costs the host more than it should."""


class Diverged(InputError):
    """The loss is no number any more."""


class Run:
    """The loop over epochs and steps of one seed."""

    def __init__(
        self,
        game: Game,
        data: Dataset,
        seed: int,
        epochs: int,
        workdir: pathlib.Path,
        options: dict[str, Any],
    ) -> None:
        self.game, self.data, self.seed, self.epochs = game, data, seed, epochs
        self.workdir, self.options = workdir, options
        self.total = epochs * game.steps_per_epoch
        self.layout, self.guard = game.layout, game.on_overfitting
        self.chunk = options["steps_per_call"] or (1 if jax.default_backend() == "cpu" else CHUNK)
        profile = options["profile"] and is_first_process()
        self.profiler = Profiler(workdir / "profile") if profile else None
        self.asked = 0  # the signal by which some process was asked to stop
        self.validation = Validation(game, data, seed, options)
        self.validates = len(data.x_val) > 0
        self.clean: dict[str, float] = {}  # measured per epoch where the steps see no clean image
        self.saved_at = time.monotonic()
        self.notes: dict[str, Any] = json.loads(json.dumps(NOTES))

    def play(self) -> State:
        """From wherever the checkpoints are to the end; or, on a signal, to a saved stop."""
        with contextlib.ExitStack() as stack:
            if is_first_process():
                stack.enter_context(lock(self.workdir))
            checkpoints = stack.enter_context(Checkpoints(self.workdir, report=self.say))
            stop = stack.enter_context(Stop())
            state, step = self.resume(checkpoints)
            if step >= self.total or self.notes["stopped"]:
                return state
            on_device = self.options["data_on"] != "host"
            self.feed = Feed(self.game, self.data, self.seed, chunk=self.chunk, on_device=on_device)
            state = self.layout.replicate(state)
            record = stack.enter_context(
                Record(
                    self.workdir if is_first_process() else None,
                    tensorboard=self.options["tensorboard"],
                    resume_step=step,
                )
            )
            stream = None if is_first_process() else stack.enter_context(open(os.devnull, "w"))
            bar = Progress(self.total, label=self.workdir.name, done=step, stream=stream)
            progress = stack.enter_context(bar)
            if self.profiler is not None:
                stack.callback(self.profiler.close)
            self.saved_at = time.monotonic()
            while step < self.total and not self.notes["stopped"]:
                epoch = step // self.game.steps_per_epoch
                state, step = self.epoch(epoch, state, step, record, progress, stop)
                ended = step == (epoch + 1) * self.game.steps_per_epoch
                back = None
                if ended:
                    single = self.layout.unreplicate(state)
                    back = self.close_epoch(epoch + 1, single, step, record, progress, checkpoints)
                if back is not None:
                    state, step = self.layout.replicate(back[0]), back[1]
                every = ended and (epoch + 1) % self.options["checkpoint_every"] == 0
                every = every or back is not None
                if every or self.late() or self.asked or step == self.total:
                    record.sync()
                    self.save(checkpoints, step, self.layout.unreplicate(state))
                    self.saved_at = time.monotonic()
                if self.asked and step < self.total:
                    checkpoints.wait()
                    raise Interrupted(self.asked, f"step {step} of {self.total}")
            return self.layout.unreplicate(state)

    def epoch(self, epoch, state, step, record, progress, stop):
        """Chunks to the epoch's end, a signal or a due checkpoint; metrics come a chunk late."""
        began, waiting = time.perf_counter(), None
        rollbacks = int(self.layout.unreplicate(state.rollbacks))
        for n, arguments in self.feed.epoch(epoch, rollbacks, step):
            compiling = time.perf_counter()
            program = self.game.program(n, state, *arguments)
            began += time.perf_counter() - compiling
            if self.profiler is not None:
                self.profiler.before(state)
            state, metrics = program(state, *arguments)
            step += n
            if self.profiler is not None:
                self.profiler.after(n, state, program, progress)
            if waiting is not None:
                self.measured(*waiting, record, progress)
            waiting = step, metrics
            self.asked, late = largest(stop.signal or 0, int(self.late()))
            if self.asked or late:
                break
        if waiting is not None:
            self.measured(*waiting, record, progress)
        self.notes["seconds"] += time.perf_counter() - began
        return state, step

    def save(self, checkpoints: Checkpoints, step: int, state: State, kind: Kind = "last") -> None:
        """A checkpoint, by the process that writes."""
        if is_first_process():
            checkpoints.save(step, state, self.notes, kind=kind)

    def late(self) -> bool:
        """Whether a checkpoint is due by the clock, also within an epoch."""
        return time.monotonic() - self.saved_at > 60 * self.options["checkpoint_minutes"]

    def measured(self, step: int, metrics: dict[str, Any], record, progress) -> None:
        """Sum the metrics of the steps up to that one; a number that is none ends the run."""
        fetched = jax.device_get(self.layout.unreplicate(metrics))
        steps = len(next(iter(fetched.values())))
        for i in range(steps):
            values = {name: float(value[i]) for name, value in fetched.items()}
            self.measured_step(step - steps + 1 + i, values, record, progress)

    def measured_step(self, step: int, values: dict[str, float], record, progress) -> None:
        """Sum one step's metrics."""
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            kept = Checkpoints(self.workdir).steps()
            good = (
                f"the last good checkpoint is step {kept[-1]}" if kept else "nothing is saved yet"
            )
            raise Diverged(
                f"{bad[0]} is {values[bad[0]]} at step {step} of {self.total}; "
                f"{good}; try a lower --theta_lr or --phi_lr, --theta_clip=1, or --eps_warmup"
            )
        sums = self.notes["sums"]
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
        self.notes["count"] += 1
        every = self.options["log_every"]
        if every and step % every == 0 and step % self.game.steps_per_epoch:
            record.write(step, values | self.rates(step), epoch=step / self.game.steps_per_epoch)
        progress.update(step, **brief(self.clean | values))

    def rates(self, step: int) -> dict[str, float]:
        """The learning rates of the last update; every rollback has halved theta's."""
        players = ("theta", "phi") if self.game.method.learns else ("theta",)
        rates = {f"{player}/lr": float(self.game.rates[player](step - 1)) for player in players}
        rates["theta/lr"] *= 0.5**self.rollbacks
        return rates

    @property
    def rollbacks(self) -> int:
        """How often the run has been taken back so far."""
        return len(self.notes["overfitting"]) if self.guard == "rollback" else 0

    def close_epoch(
        self, epoch, state, step, record, progress, checkpoints
    ) -> tuple[State, int] | None:
        """Validate, diagnose, write the epoch's line, and keep the best so far.

        Where the guard takes the run back: the state and the step from which it goes on or ends.
        """
        began = time.perf_counter()
        values = {name: total / self.notes["count"] for name, total in self.notes["sums"].items()}
        values |= self.rates(step) | self.validation.measure(state)
        values.setdefault("theta/clean_accuracy", self.validation.clean_accuracy(state))
        self.clean = {"theta/clean_accuracy": values["theta/clean_accuracy"]}
        values["seconds/train"] = self.notes["seconds"]
        values["seconds/validation"] = time.perf_counter() - began
        classes = self.data.num_classes
        guarded = self.game.guarded and self.validates
        collapsed = guarded and overfitted(values, self.notes["peak"], classes)
        event: dict[str, float] = {}
        if collapsed and not self.notes["collapsed"]:
            event = {name: values[f"val/{name}"] for name in ("fgsm", "robust")}
            event |= {"epoch": epoch, "peak": self.notes["peak"]}
        values |= {f"overfitting/{name}": value for name, value in event.items()}
        record.write(step, values, epoch=epoch)
        record.sync()  # before this epoch is saved as the best or as a good one
        progress.update(step, **brief(values), line=True)
        self.notes |= {"sums": {}, "count": 0, "collapsed": collapsed}
        if event:
            self.notes["overfitting"] = [*self.notes["overfitting"], event]
            line = warning(event, self.guard, len(self.notes["overfitting"]))
            progress.say(f"[{self.workdir.name}] {line}")
            if self.guard != "warn":
                return self.take_back(event, record, progress, checkpoints)
        self.notes["peak"] = max(self.notes["peak"], values.get("val/robust", 0.0))
        self.keep_best(epoch, state, step, values, checkpoints)
        if self.guard != "warn":
            self.save(checkpoints, step, state, "good")
        return None

    def keep_best(self, epoch, state, step, values, checkpoints) -> None:
        """Save the epoch as the best of theta or of its average, if it is that on validation.

        Where there is no validation split every epoch is the best so far: in the end, the last.
        """
        kinds: tuple[tuple[Kind, str], ...] = (("best", ""), ("best_ema", "_ema"))
        score, best = self.game.selects, self.notes["best"]
        for kind, suffix in kinds if state.ema else kinds[:1]:
            names = ("robust", "clean") if self.validates else ()
            scores = {name: values[f"val/{name}{suffix}"] for name in names}
            if not scores or scores[score] > best.get(kind, {}).get(score, -1.0):
                best[kind] = {**scores, "epoch": epoch}
                self.save(checkpoints, step, state, kind)

    def take_back(self, event, record, progress, checkpoints) -> tuple[State, int]:
        """The last good epoch, whole; with a new random stream, or as the run's end."""
        restored = self.restored(checkpoints, "good")
        if restored is None:
            raise InputError(f"{self.workdir} holds no intact good epoch to go back to")
        events, seconds = self.notes["overfitting"], self.notes["seconds"]
        state, self.notes, step = restored
        self.notes |= {"overfitting": events, "seconds": seconds}
        if self.guard == "stop" or len(events) > MOST_ROLLBACKS:
            self.notes["stopped"] = step // self.game.steps_per_epoch
        taken = min(len(events), MOST_ROLLBACKS) if self.guard == "rollback" else 0
        state = state._replace(rollbacks=jnp.asarray(taken, state.rollbacks.dtype))
        record.rewind(step)
        record.write(step, {f"overfitting/{name}": value for name, value in event.items()})
        progress.rewind(step)
        return state, step

    def resume(self, checkpoints: Checkpoints) -> tuple[State, int]:
        """The newest intact checkpoint, or the start."""
        restored = self.restored(checkpoints, "last")
        if restored is None:
            return self.game.init(self.seed), 0
        state, self.notes, step = restored
        if step < self.total:
            self.say(f"resumed at step {step} of {self.total}")
        return state, step

    def restored(self, checkpoints: Checkpoints, kind: Kind) -> tuple[State, dict, int] | None:
        """The newest intact checkpoint of that kind, as the process that reads it found it."""
        found = checkpoints.restore(self.game.abstract, kind=kind) if is_first_process() else None
        told = agree(None if found is None else found[1:])
        if told is None:
            return None
        nothing = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), self.game.abstract)
        return agree_on(nothing if found is None else found[0]), *told

    def say(self, line: str) -> None:
        """One line to the user, beside the progress bar; from the process that logs."""
        if is_first_process():
            print(f"[{self.workdir.name}] {line}", file=sys.stderr)
