"""SIGTERM and Ctrl-C: the loop finishes its step, saves, and says how far it came."""

import signal
from typing import Any


class Interrupted(Exception):
    """The run was asked to stop and has saved itself."""

    def __init__(self, number: int, where: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} and saved at {where}")
        self.exit_code = 128 + number


class Stop:
    """SIGTERM and Ctrl-C ask the loop to stop after the current step; a second Ctrl-C insists."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
