"""The processes of a run meet before JAX joins them: JAX would end in a stack trace if one lacks.

Process 0 listens at the coordinator's address until all have said who they are, and tells every one
either to go on or why not. Then the port is free for JAX.
"""

import contextlib
import json
import socket
import time
from typing import Any

from l2ljax.errors import InputError

RETRY = 0.2
"""Seconds between two attempts to reach process 0."""


def meet(address: str, count: int, number: int, timeout: float) -> None:
    """Return when all processes are there; a InputError in each of them if that fails."""
    until = time.monotonic() + timeout
    if number:
        _report(address, count, number, until, timeout)
    else:
        _gather(address, count, until, timeout)


def _gather(address: str, count: int, until: float, timeout: float) -> None:
    port = int(address.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        try:
            listening = stack.enter_context(socket.create_server(("", port), backlog=count))
        except OSError as error:
            raise InputError(f"--coordinator={address}: {error.strerror}") from None
        come: dict[int, socket.socket] = {0: listening}
        refusal = None
        while len(come) < count and refusal is None:
            listening.settimeout(max(until - time.monotonic(), 0.001))
            try:
                other = stack.enter_context(listening.accept()[0])
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(count) if i not in come)
                refusal = f"process {missing} of {count} did not come within {timeout:g} s"
                break
            try:
                said = _hear(other, until)
                number, theirs = int(said["process_id"]), int(said["num_processes"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a stranger, or one that has left
            if theirs != count:
                refusal = f"process {number} has --num_processes={theirs}, process 0 has {count}"
            elif number in come:
                refusal = f"two processes have --process_id={number}"
            come[-1 if refusal else number] = other
        for i, other in come.items():
            if i:
                _say(other, {"refusal": refusal})
    if refusal:
        raise InputError(f"--coordinator={address}: {refusal}")


def _report(address: str, count: int, number: int, until: float, timeout: float) -> None:
    host, _, port = address.rpartition(":")
    told = None
    while told is None and time.monotonic() < until:
        left = max(until - time.monotonic(), 0.001)
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=left) as there:
                _say(there, {"process_id": number, "num_processes": count})
                # Process 0 gives up by its own clock, which may have started later.
                told = _hear(there, until + timeout)
        except (OSError, ValueError):
            time.sleep(RETRY)
    if told is None:
        raise InputError(f"--coordinator={address} did not answer within {timeout:g} s")
    if told["refusal"]:
        raise InputError(f"--coordinator={address}: {told['refusal']}")


def _say(there: socket.socket, value: Any) -> None:
    there.sendall(json.dumps(value).encode() + b"\n")


def _hear(there: socket.socket, until: float) -> Any:
    """One line; what is not one of ours is as good as silence."""
    heard = b""
    while not heard.endswith(b"\n"):
        there.settimeout(max(until - time.monotonic(), 0.001))
        more = there.recv(4096)
        if not more:
            raise ConnectionError("closed before a line was said")
        heard += more
    return json.loads(heard)
