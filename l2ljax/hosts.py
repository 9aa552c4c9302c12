"""Several processes that train one net: how they find each other, and what a silent one means.

    python experiments/train.py --coordinator=10.0.0.1:1234 --num_processes=2 --process_id=0
    python experiments/train.py --coordinator=10.0.0.1:1234 --num_processes=2 --process_id=1

On TPU pods and under SLURM JAX finds all three by itself. Before the first computation.
"""

import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import jax

from l2ljax.errors import InputError
from l2ljax.rendezvous import meet
from l2ljax.settings import Setting

HOSTS = [
    Setting(
        "coordinator", str, "HOST:PORT of process 0, of several; none ignores SLURM and TPU pods"
    ),
    Setting("num_processes", int, "processes that train together"),
    Setting("process_id", int, "which of them this is, from 0"),
    Setting("init_timeout", int, "seconds to wait for the coordinator", 300),
]


DAY = 24 * 60 * 60
"""Seconds: so long the other processes wait at their end for the first one to conclude."""


def join(options: Mapping[str, Any]) -> None:
    """Meet the other processes, if there are any; only the first one prints from then on."""
    address, count, number = (
        options[name] for name in ("coordinator", "num_processes", "process_id")
    )
    if options["init_timeout"] <= 0:
        raise InputError(f"--init_timeout={options['init_timeout']} must be positive")
    timeout = options["init_timeout"]
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
    """Around what several processes do together: one that fails says why and ends at once.

    Else it would wait at its end for the others, and they for it in the next collective. JAX ends
    the others when it misses one.
    """

    def __enter__(self) -> "Together":
        """Itself."""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Nothing, for one process or where nothing failed."""
        if error is None or not jax.distributed.is_initialized():
            return
        if isinstance(error, ValueError):
            print(f"process {jax.process_index()}: {error}", file=sys.stderr)
        else:
            traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
        os._exit(2 if isinstance(error, ValueError) else 1)


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
