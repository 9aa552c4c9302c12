"""The loop of a training run: epochs, steps, checkpoints, validation, and how it resumes.

A run is a function of (game, seed): step and rollbacks in the state say where it is. What the loop
itself carries between steps, the epoch's sums and the best scores, is stored with every checkpoint.
So a resumed run repeats the uninterrupted one bit for bit, metrics included; also one that was
taken back because an epoch had overfitted (diagnostics.py).
"""

import contextlib
import json
import pathlib
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax.checkpoint import Checkpoints, CheckpointsInMemory, Kind
from l2ljax.errors import InputError
from l2ljax.machine import Profiler
from l2ljax.parallel import agree, agree_on, is_first_process, largest
from l2ljax.record import Record, RecordInMemory
from l2ljax.runs.config import lock
from l2ljax.runs.diagnostics import look, take_back, warning
from l2ljax.runs.feed import Feed
from l2ljax.runs.game import NOTES, Callback, EpochEnd, Game, Options, check_finite
from l2ljax.runs.validation import Validation, brief
from l2ljax.terminal import Interrupted, Progress, Stop
from l2ljax.types import State

CHUNK = 50
"""Steps of one call on an accelerator, where a call costs the host more than it should."""


class Loop:
    """One seed, from wherever its checkpoints are to the end of its epochs."""

    def __init__(
        self,
        game: Game,
        *,
        epochs: int,
        seed: int,
        workdir: pathlib.Path | None,
        options: Options,
        callbacks: Sequence[Callback] = (),
        progress: bool = False,
    ) -> None:
        """The run that will be written to `workdir`, or kept in memory where there is none."""
        self.game, self.seed, self.epochs, self.workdir = game, seed, epochs, workdir
        self.options, self.callbacks, self.progress = options, callbacks, progress
        self.total = epochs * game.steps_per_epoch
        self.layout, self.saved_at = game.layout, time.monotonic()
        self.name = "run" if workdir is None else workdir.name
        self.chunk = options.steps_per_call or (1 if jax.default_backend() == "cpu" else CHUNK)
        self.asked = 0  # the signal by which some process was asked to stop
        self.validation = Validation(game, seed, options.eval_batch, options.diagnose)
        self.validates = len(game.data.x_val) > 0
        self.clean: dict[str, float] = {}  # measured per epoch where the steps see no clean image
        self.notes: dict[str, Any] = json.loads(json.dumps(NOTES))
        self.checkpoints: Any = CheckpointsInMemory()
        self.record: Any = RecordInMemory()

    def play(self) -> State:
        """To the end; or, on a signal, to a saved stop."""
        leads = is_first_process()
        with contextlib.ExitStack() as stack:
            if self.workdir is not None:
                if leads:
                    stack.enter_context(lock(self.workdir))
                self.checkpoints = Checkpoints(self.workdir, report=self.warn)
            stack.callback(self.checkpoints.close)
            # A run in memory cannot save itself: there Ctrl-C is left to Python.
            stop = Stop() if self.workdir is None else stack.enter_context(Stop())
            state, step = self.resume()
            if step >= self.total or self.notes["stopped"]:
                return state
            game, data_on = self.game, self.options.data_on
            self.feed = Feed(
                game.data,
                self.seed,
                layout=self.layout,
                batch_size=game.batch_size,
                part_size=game.part_size,
                chunk=self.chunk,
                on_device=None if data_on is None else data_on == "device",
            )
            if self.workdir is not None:
                how = {"tensorboard": self.options.tensorboard, "resume_step": step}
                self.record = Record(self.workdir if leads else None, **how)
            stack.callback(self.record.close)
            silent = not (self.progress and leads)
            bar = Progress(self.total, label=self.name, done=step, silent=silent)
            self.bar = stack.enter_context(bar)
            self.profiler = None
            if self.options.profile and leads and self.workdir is not None:
                self.profiler = Profiler(self.workdir / "profile")
                stack.callback(self.profiler.close)
            self.steps(self.layout.replicate(state), step, stop)
        return self.state

    def steps(self, state: Any, step: int, stop: Stop) -> None:
        """Epoch after epoch; the state at the end is left in `self.state`."""
        self.saved_at = time.monotonic()
        while step < self.total and not self.notes["stopped"]:
            epoch = step // self.game.steps_per_epoch
            state, step = self.epoch(epoch, state, step, stop)
            ended = step == (epoch + 1) * self.game.steps_per_epoch
            single = self.layout.unreplicate(state)
            back = self.close_epoch(epoch + 1, single, step) if ended else None
            if back is not None:
                state, step = self.layout.replicate(back[0]), back[1]
            every = ended and (epoch + 1) % self.options.checkpoint_every == 0
            over = step == self.total or self.notes["stopped"]
            if every or back is not None or over or self.late() or self.asked:
                self.record.sync()
                self.save(step, self.layout.unreplicate(state))
                self.saved_at = time.monotonic()
            if self.asked and step < self.total:
                self.checkpoints.wait()
                raise Interrupted(self.asked, f"step {step} of {self.total}")
        self.state = self.layout.unreplicate(state)

    def epoch(self, epoch: int, state: Any, step: int, stop: Stop) -> tuple[Any, int]:
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
                self.profiler.after(n, state, program, self.bar)
            if waiting is not None:
                self.measured(*waiting)
            waiting = step, metrics
            self.asked, late = largest(stop.signal or 0, int(self.late()))
            if self.asked or late:
                break
        if waiting is not None:
            self.measured(*waiting)
        self.notes["seconds"] += time.perf_counter() - began
        return state, step

    def save(self, step: int, state: State, kind: str = "last") -> None:
        """A checkpoint, by the process that writes."""
        if is_first_process():
            self.checkpoints.save(step, state, self.notes, kind=kind)

    def late(self) -> bool:
        """Whether a checkpoint is due by the clock, also within an epoch."""
        due = 60 * self.options.checkpoint_minutes
        return self.workdir is not None and time.monotonic() - self.saved_at > due

    def measured(self, step: int, metrics: dict[str, Any]) -> None:
        """Sum the metrics of the steps up to that one; a number that is none ends the run."""
        fetched = jax.device_get(self.layout.unreplicate(metrics))
        steps = len(next(iter(fetched.values())))
        for i in range(steps):
            values = {name: float(value[i]) for name, value in fetched.items()}
            self.measured_step(step - steps + 1 + i, values)

    def measured_step(self, step: int, values: dict[str, float]) -> None:
        """Sum one step's metrics."""
        check_finite(values, step, self.total, self.checkpoints)
        sums = self.notes["sums"]
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
        self.notes["count"] += 1
        every, per_epoch = self.options.log_every, self.game.steps_per_epoch
        if every and step % every == 0 and step % per_epoch:
            self.record.write(step, values | self.rates(step), epoch=step / per_epoch)
        self.bar.update(step, **brief(self.clean | values))  # pyright: ignore

    def rates(self, step: int) -> dict[str, float]:
        """The learning rates of the last update; every rollback has halved theta's."""
        rates = {f"{player}/lr": float(rate(step - 1)) for player, rate in self.game.rates.items()}
        if "theta/lr" in rates:
            rates["theta/lr"] *= 0.5**self.rollbacks
        return rates

    @property
    def rollbacks(self) -> int:
        """How often the run has been taken back so far."""
        return len(self.notes["overfitting"]) if self.game.on_overfitting == "rollback" else 0

    def close_epoch(self, epoch: int, state: State, step: int) -> tuple[State, int] | None:
        """Validate, diagnose, write the epoch's line, tell the callbacks, keep the best so far.

        Where the guard takes the run back: the state and the step from which it goes on or ends.
        """
        began = time.perf_counter()
        values = {name: total / self.notes["count"] for name, total in self.notes["sums"].items()}
        values |= self.rates(step)
        validated = epoch % self.options.validate_every == 0 or epoch == self.epochs
        if validated:
            values |= self.validation.measure(state)
            values.setdefault("theta/clean_accuracy", self.validation.clean_accuracy(state))
        self.clean = {n: v for n, v in values.items() if n == "theta/clean_accuracy"}
        values["seconds/train"] = self.notes["seconds"]
        values["seconds/validation"] = time.perf_counter() - began
        guarded = validated and self.game.guarded and self.validates
        event = look(self.notes, values, epoch, self.game.data.num_classes) if guarded else {}
        values |= {f"overfitting/{name}": value for name, value in event.items()}
        self.record.write(step, values, epoch=epoch)
        self.record.sync()  # before this epoch is saved as the best or as a good one
        self.bar.update(step, line=True, **brief(values))  # pyright: ignore
        self.notes |= {"sums": {}, "count": 0}
        stop = self.tell(EpochEnd(epoch, step, values, state, self.game, self.workdir))
        if event:
            self.notes["overfitting"] = [*self.notes["overfitting"], event]
            line = warning(event, self.game.on_overfitting, len(self.notes["overfitting"]))
            self.warn(line)
            if self.game.on_overfitting != "warn":
                return self.take_back(event)
        self.notes["peak"] = max(self.notes["peak"], values.get("val/robust", 0.0))
        if stop and epoch < self.epochs:
            self.notes |= {"stopped": epoch, "stopped_by": "callback"}
        if validated:
            self.keep_best(epoch, state, step, values)
        if self.game.on_overfitting != "warn":
            self.save(step, state, "good")
        return None

    def tell(self, end: EpochEnd) -> bool:
        """Call every callback; whether one of them ends the run, as the first process found it."""
        answers = [callback(end) for callback in self.callbacks] if is_first_process() else []
        return agree(any(answer is True for answer in answers)) if self.callbacks else False

    def keep_best(self, epoch: int, state: State, step: int, values: dict[str, float]) -> None:
        """Save the epoch as the best of theta or of its average, if it is that on validation.

        Where there is no validation split every epoch is the best so far: in the end, the last.
        """
        score, best = self.game.method.selects, self.notes["best"]
        for kind, suffix in (("best", ""), ("best_ema", "_ema"))[: 2 if state.ema else 1]:
            names = ("robust", "clean") if self.validates else ()
            scores = {name: values[f"val/{name}{suffix}"] for name in names}
            if not scores or scores[score] > best.get(kind, {}).get(score, -1.0):
                best[kind] = {**scores, "epoch": epoch}
                self.save(step, state, kind)

    def take_back(self, event: dict[str, float]) -> tuple[State, int]:
        """The last good epoch, whole; with a new random stream, or as the run's end."""
        restored = self.restored("good")
        if restored is None:
            raise InputError(f"{self.workdir} holds no intact good epoch to go back to")
        events, seconds = self.notes["overfitting"], self.notes["seconds"]
        state, self.notes, step = restored
        self.notes |= {"overfitting": events, "seconds": seconds}
        epoch = step // self.game.steps_per_epoch
        taken = take_back(self.notes, self.game.on_overfitting, epoch)
        state = state._replace(rollbacks=jnp.asarray(taken, state.rollbacks.dtype))
        self.record.rewind(step)
        self.record.write(step, {f"overfitting/{name}": value for name, value in event.items()})
        self.bar.rewind(step)
        return state, step

    def resume(self) -> tuple[State, int]:
        """The newest intact checkpoint, or the start."""
        restored = self.restored("last")
        if restored is None:
            return self.game.init(self.seed), 0
        state, self.notes, step = restored
        if step < self.total and not self.notes["stopped"]:
            self.say(f"resumed at step {step} of {self.total}")
        return state, step

    def restored(self, kind: Kind) -> tuple[State, dict, int] | None:
        """The newest intact checkpoint of that kind, as the process that reads it found it."""
        found = (
            self.checkpoints.restore(self.game.abstract, kind=kind) if is_first_process() else None
        )
        told = agree(None if found is None else found[1:])
        if told is None:
            return None
        nothing = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), self.game.abstract)
        return agree_on(nothing if found is None else found[0]), *told

    def say(self, line: str) -> None:
        """One line to the user, beside the progress bar, if he asked to see it."""
        if self.progress and is_first_process():
            print(f"[{self.name}] {line}", file=sys.stderr)

    def warn(self, line: str) -> None:
        """One line that the user must see: beside the progress bar, or as a Python warning."""
        if not self.progress and is_first_process():
            warnings.warn(f"[{self.name}] {line}", stacklevel=2)
        self.say(line)
