"""A progress bar of one line, and durations as people read them.

    grad_l2l [########............]  40 %  epoch 12.0  57.3 step/s  3 min 20 s left  loss 1.234

Speed and time left count from the end of this process's first step, because that one compiles. A
value given as a device array is waited for only when it is drawn.
"""

import shutil
import sys
import time
from collections.abc import Callable, Collection
from typing import Any, TextIO

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
