"""What a run measured: `metrics.jsonl`, and TensorBoard event files if asked for.

    with Record(workdir, tensorboard=True, resume_step=step) as record:
        record.write(step, {"theta/loss": 1.25}, epoch=0.5)
    read(workdir / "metrics.jsonl")    # [{"step": 1, "epoch": 0.5, "time": ..., "theta/loss": ...}]

Opening cuts off what lies beyond `resume_step`, so that the file of a resumed run is that of the
uninterrupted one, line for line, except for "time" (Unix seconds). Before the checkpoint of a step
is saved, its record must be written and `sync` called: then the record is there after a power cut,
as the checkpoint is.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from l2ljax.errors import RecordError

_RESERVED = ("step", "epoch", "time")


class Record:
    """The metrics of one run, appended line by line.

    A line that was written survives the end of the process; after `sync` or `close` it also
    survives a power cut.
    """

    def __init__(
        self,
        workdir: str | Path | None,
        *,
        tensorboard: bool,
        resume_step: int = 0,
        clock: Callable[[], float] = time.time,
    ):
        """Open `<workdir>/metrics.jsonl`, keeping the records up to `resume_step`.

        Without a workdir nothing is written: for runs in memory, and for the processes of a run
        that are not the first one.
        """
        self._clock = clock
        self._path = Path(os.devnull) if workdir is None else Path(workdir) / "metrics.jsonl"
        tensorboard = tensorboard and workdir is not None
        self._board = None
        self._summary_writer = _summary_writer() if tensorboard else None
        self._open(resume_step)

    def _open(self, resume_step: int):
        try:
            if self._path != Path(os.devnull):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                _cut(self._path, resume_step)
            self._file = self._path.open("a", encoding="utf-8")
            if self._summary_writer is not None:
                folder = str(self._path.with_name("tensorboard"))
                self._board = self._summary_writer(folder, purge_step=resume_step + 1)
        except OSError as error:
            raise RecordError(f"cannot write {self._path}: {error.strerror}") from error

    def rewind(self, step: int):
        """Cut off what lies beyond `step`: the run goes on from there."""
        self.close()
        self._open(step)

    def write(self, step: int, values: Mapping[str, Any], *, epoch: float | None = None):
        """Append one record; values are scalars, and one that is not finite becomes null."""
        clash = [name for name in _RESERVED if name in values]
        if clash:
            raise RecordError(f"{clash[0]!r} is no name for a metric: every record has it already")
        now = self._clock()
        scalars = {name: float(value) for name, value in values.items()}
        finite = {name: x if math.isfinite(x) else None for name, x in scalars.items()}
        when = {} if epoch is None else {"epoch": float(epoch)}
        line = {"step": int(step), **when, "time": round(now, 3), **finite}
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise RecordError(f"cannot write {self._path}: {error.strerror}") from error
        if self._board is not None:
            for name, x in finite.items():
                if x is not None:
                    self._board.add_scalar(name, x, step, walltime=now)

    def sync(self):
        """Wait until every record is on the disk itself: a checkpoint may follow."""
        if self._path == Path(os.devnull):
            return
        try:
            os.fsync(self._file.fileno())
            _sync_folder(self._path.parent)
        except OSError as error:
            raise RecordError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self):
        """Close the files; what they hold is on the disk."""
        try:
            if not self._file.closed:
                self.sync()
        finally:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> "Record":
        """Itself."""
        return self

    def __exit__(self, *exception: object):
        """Close, whatever happened."""
        self.close()


def read(path: str | Path) -> list[dict[str, float]]:
    """One dict per step, in order: its records merged, later ones winning; null reads as nan."""
    steps: dict[int, dict[str, float]] = {}
    for _, record in _records(Path(path)):
        values = {name: math.nan if x is None else x for name, x in record.items()}
        steps.setdefault(record["step"], {}).update(values)
    return [steps[step] for step in sorted(steps)]


def _records(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Every line and its record, without a last line that a killed run left unfinished."""
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from error
    return [
        (line, _parse(line, f"{path}, line {number}")) for number, line in enumerate(lines, start=1)
    ]


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if not isinstance(record["step"], int):
            raise TypeError("step")
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{place}: no record of a step") from error
    return record


def _cut(path: Path, resume_step: int):
    if not path.exists():
        return
    kept = [line for line, record in _records(path) if record["step"] <= resume_step]
    # Written beside it and moved: a run killed here finds the old file or the new one.
    beside = path.with_name(path.name + ".tmp")
    with beside.open("wb") as file:
        file.write(b"".join(line + b"\n" for line in kept))
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _sync_folder(folder: Path):
    """Also the name of a new file, and a rename, reach the disk only with their folder."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _summary_writer() -> Callable[..., Any]:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise RecordError(
            "TensorBoard files need tensorboardX: pip install 'l2ljax[plots]', or switch them off"
        ) from error
    return SummaryWriter


class RecordInMemory:
    """In place of a `Record`, for a run without a folder: the lines of its metrics.jsonl."""

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
        """One dict a step, as `read` gives them of a file."""
        steps: dict[float, dict[str, float]] = {}
        for line in self.lines:
            steps.setdefault(line["step"], {}).update(line)
        return [steps[step] for step in sorted(steps)]
