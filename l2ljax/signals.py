"""SIGTERM and Ctrl-C: the loop finishes its step, saves, and says how far it came.

with Stop() as stop:
    while step < total:
        ...
        if stop.signal:
            save()
            raise Interrupted(stop.signal, f"step {step} of {total}")
"""

import signal
import threading
from typing import Any


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
