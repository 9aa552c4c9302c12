"""Several processes that train one net: how they find each other, and what happens if one fails.

    python experiments/train.py --coordinator=10.0.0.1:1234 --num_processes=2 --process_id=0
    python experiments/train.py --coordinator=10.0.0.1:1234 --num_processes=2 --process_id=1

On TPU pods and under SLURM, JAX finds all three values by itself. `join` must be called before the
first computation.

The processes first meet by a socket of ours: if one is missing, `jax.distributed.initialize` would
end in a stack trace. Process 0 listens at the coordinator's address until every process has said
its number, and tells each of them to go on, or why not. Then it closes the port, which JAX takes.
"""

import contextlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import jax

from l2ljax.errors import InputError
from l2ljax.settings import Setting

HOSTS = [
    Setting("coordinator", str, "HOST:PORT of process 0; none: one process, despite SLURM or TPU"),
    Setting("num_processes", int, "processes that train together"),
    Setting("process_id", int, "which of them this is, from 0"),
    Setting("init_timeout", int, "seconds to wait for the coordinator", 300, "> 0"),
]

DAY = 24 * 60 * 60
"""Seconds for which the other processes wait at their end, while the first one evaluates."""

RETRY = 0.2
"""Seconds between two attempts to reach process 0."""


def join(options: Mapping[str, Any]) -> None:
    """Meet the other processes, if there are any; from then on only the first one prints.

    `options` has a value for each setting of HOSTS.
    """
    for setting in HOSTS:
        setting.check(options[setting.name])
    address, count, number, timeout = (options[setting.name] for setting in HOSTS)
    if address in (None, "none"):
        if count not in (None, 1) or number not in (None, 0):
            raise InputError("--num_processes and --process_id need --coordinator=HOST:PORT")
        if address == "none" or not found(os.environ):
            return
    else:
        meet(address, *_checked(address, count, number), timeout)
    jax.distributed.initialize(
        address,
        count,
        number,
        initialization_timeout=timeout,
        shutdown_timeout_seconds=DAY,
    )
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")


class Together:
    """Surrounds what several processes do together: a process that fails says why and exits.

    If it only raised its error, it would wait at its end for the others, and they would wait for it
    in their next collective operation. When it exits, JAX notices and ends the others.
    """

    def __enter__(self) -> "Together":
        """Itself."""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Does nothing for one process alone, or where nothing failed."""
        if error is None or not jax.distributed.is_initialized():
            return
        mendable = isinstance(error, InputError)
        if mendable:
            print(f"process {jax.process_index()}: {error}", file=sys.stderr)
        else:
            traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
        os._exit(2 if mendable else 1)


def found(environment: Mapping[str, str]) -> bool:
    """Whether SLURM or a TPU pod says that there are several processes."""
    tasks = environment.get("SLURM_NTASKS", "1")
    workers = environment.get("TPU_WORKER_HOSTNAMES", "")
    return (tasks.isdigit() and int(tasks) > 1 and "SLURM_PROCID" in environment) or "," in workers


def _checked(address: str, count: int | None, number: int | None) -> tuple[int, int]:
    host, colon, port = address.rpartition(":")
    if not host or not colon or not port.isdigit():
        raise InputError(f"--coordinator={address} is no HOST:PORT such as 10.0.0.1:1234")
    if count is None or number is None:
        raise InputError("--coordinator needs --num_processes and --process_id")
    if not 0 <= number < count:
        raise InputError(f"--process_id={number} is none of --num_processes={count}, from 0")
    return count, number


def meet(address: str, count: int, number: int, timeout: float) -> None:
    """Return when all processes are there; an InputError in each of them if one is missing."""
    until = time.monotonic() + timeout
    refusal = (
        _ask_to_join(address, count, number, until, timeout)
        if number
        else _wait_for_all(address, count, until, timeout)
    )
    if refusal:
        raise InputError(f"--coordinator={address}{refusal}")


def _wait_for_all(address: str, count: int, until: float, timeout: float) -> str | None:
    """What process 0 does; what is wrong, or None."""
    port = int(address.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        try:
            listening = stack.enter_context(socket.create_server(("", port), backlog=count))
        except OSError as error:
            return f": {error.strerror}"
        come: dict[int, socket.socket] = {0: listening}
        refusal = None
        while len(come) < count and refusal is None:
            listening.settimeout(max(until - time.monotonic(), 0.001))
            try:
                other = stack.enter_context(listening.accept()[0])
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(count) if i not in come)
                refusal = f": process {missing} of {count} did not come within {timeout:g} s"
                break
            try:
                said = _hear(other, until)
                number, theirs = int(said["process_id"]), int(said["num_processes"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # it is none of ours, or has closed the connection
            if theirs != count:
                refusal = f": process {number} has --num_processes={theirs}, process 0 has {count}"
            elif number in come:
                refusal = f": two processes have --process_id={number}"
            come[-1 if refusal else number] = other
        for i, other in come.items():
            if i:
                _say(other, {"refusal": refusal})
    return refusal


def _ask_to_join(address: str, count: int, number: int, until: float, timeout: float) -> str | None:
    """What the other processes do; what is wrong, or None."""
    host, _, port = address.rpartition(":")
    while time.monotonic() < until:
        left = max(until - time.monotonic(), 0.001)
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=left) as there:
                _say(there, {"process_id": number, "num_processes": count})
                # Process 0 gives up by its own clock, which may have started later than ours.
                return _hear(there, until + timeout)["refusal"]
        except (OSError, ValueError):
            time.sleep(RETRY)
    return f" did not answer within {timeout:g} s"


def _say(there: socket.socket, value: Any) -> None:
    there.sendall(json.dumps(value).encode() + b"\n")


def _hear(there: socket.socket, until: float) -> Any:
    """One line of JSON; an OSError or a ValueError if none comes, or if it is something else."""
    heard = b""
    while not heard.endswith(b"\n"):
        there.settimeout(max(until - time.monotonic(), 0.001))
        more = there.recv(4096)
        if not more:
            raise ConnectionError("closed before a line was said")
        heard += more
    return json.loads(heard)
