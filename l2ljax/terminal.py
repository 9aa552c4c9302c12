"""What a person at a terminal sees and presses: tables, the progress bar, Ctrl-C.

The bar has one line:

    grad_l2l [########............]  40 %  epoch 12.0  57.3 step/s  3 min 20 s left  loss 1.234

Speed and time left count from the end of this process's first step, because that one compiles. A
value given as a device array is waited for only when it is drawn.

On SIGTERM and Ctrl-C a loop finishes its step, saves, and says how far it came:

    with Stop() as stop:
        while step < total:
            ...
            if stop.signal:
                save()
                raise Interrupted(stop.signal, f"step {step} of {total}")
"""

import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, TextIO


def align(lines: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first line underlined."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([text[0].rstrip(), "-" * len(text[0]), *(t.rstrip() for t in text[1:])])


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Columns as a Markdown table, the first line its header."""
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])


_WIDTH = 20
_REDRAW_SECONDS = 0.1


def duration(seconds: float) -> str:
    """12.3 s, 3 min 20 s, 1 h 02 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


class Progress:
    """How far a run is: redrawn in place on a terminal, a line per tenth of the way elsewhere."""

    def __init__(
        self,
        total_steps: int,
        *,
        label: str,
        stream: TextIO | None = None,
        done: int = 0,
        percent: Collection[str] = ("clean", "robust"),
        unit: str | None = "step",
        silent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`done` steps were made before; the values named in `percent` are fractions.

        Without a unit no speed is shown: steps are then shares of the work. A silent bar draws
        nothing and says nothing.
        """
        self._silent = silent
        self._total = max(total_steps, 1)
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._percent = percent
        self._unit = unit
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._first: tuple[int, float] | None = None  # the step that compiled, and its end
        self._tenth = 10 * done // self._total
        self._drawn_at = -float("inf")
        self._drawn = ""

    def update(self, step: int, *, epoch: float | None = None, line: bool = False, **values: Any):
        """`step` steps are done; values are numbers or texts. `line` asks for a line now."""
        if self._silent:
            return
        last = step >= self._total
        if self._first is None:
            shown = self._show(values)  # waits for the step, so that its end is known
            self._first = (step, self._clock())
            if self._terminal or line or last:
                self._draw(step, epoch, shown)
        elif line or last or self._is_due(step):
            self._draw(step, epoch, self._show(values))

    def say(self, text: str):
        """Print a line of its own, above the bar."""
        if self._silent:
            return
        if self._terminal and self._drawn:
            print("\r" + " " * len(self._drawn) + "\r", end="", file=self._stream)
            self._drawn = ""
        print(text, file=self._stream, flush=True)
        self._drawn_at = -float("inf")

    def rewind(self, step: int):
        """The run goes on from an earlier step; speed and time left count anew."""
        self._first = None
        self._tenth = 10 * step // self._total

    def close(self):
        """End the line."""
        if self._terminal and self._drawn:
            print(file=self._stream, flush=True)
            self._drawn = ""

    def __enter__(self) -> "Progress":
        """Itself."""
        return self

    def __exit__(self, *exception: object):
        """Close, whatever happened."""
        self.close()

    def _is_due(self, step: int) -> bool:
        if self._terminal:
            return self._clock() - self._drawn_at >= _REDRAW_SECONDS
        return 10 * step // self._total > self._tenth

    def _show(self, values: dict[str, Any]) -> str:
        def show(name: str, value: Any) -> str:
            if isinstance(value, str):
                return f"{name} {value}"
            if name in self._percent:
                return f"{name} {100 * float(value):.0f} %"
            return f"{name} {float(value):.4g}"

        return " ".join(show(name, value) for name, value in values.items())

    def _draw(self, step: int, epoch: float | None, shown: str):
        now = self._clock()
        filled = min(_WIDTH * step // self._total, _WIDTH)
        bar = "#" * filled + "." * (_WIDTH - filled)
        parts = [f"{self._label} [{bar}] {100 * step // self._total:3d} %"]
        parts += [] if epoch is None else [f"epoch {epoch:.1f}"]
        parts += self._speed(step, now)
        text = "  ".join([*parts, shown]).rstrip()
        if self._terminal:
            text = text[: shutil.get_terminal_size().columns - 1]
            print("\r" + text.ljust(len(self._drawn)), end="", file=self._stream, flush=True)
        else:
            print(text, file=self._stream, flush=True)
        self._drawn, self._drawn_at, self._tenth = text, now, 10 * step // self._total

    def _speed(self, step: int, now: float) -> list[str]:
        first, since = self._first or (step, now)
        if step <= first or now <= since:
            return []
        per_second = (step - first) / (now - since)
        left = (self._total - step) / per_second
        ending = [f"{duration(left)} left"] if step < self._total else []
        speed = [f"{per_second:.3g} {self._unit}/s"] if self._unit else []
        return [*speed, *ending]


class Interrupted(Exception):
    """A run was asked to stop and has saved itself; `exit_code` is what a command ends with."""

    def __init__(self, number: int, where: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} and saved at {where}")
        self.exit_code = 128 + number


class Stop:
    """While it is entered, SIGTERM and Ctrl-C set `signal` instead of ending the program.

    A second signal raises KeyboardInterrupt at once. Python lets only the main thread handle
    signals: in any other thread this does nothing, and `signal` stays None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        """Itself."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        """The handlers that were there before."""
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
