"""Sides of a comparison in processes of their own; each prints one line of JSON at its end."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from l2ljax.errors import InputError


def run_side(
    script: str,
    given: Mapping[str, Any],
    cores: Sequence[int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """What `script` prints last with these flags, on these cores."""
    flags = [f"--{name}={value}" for name, value in given.items()]
    changes = {"OMP_NUM_THREADS": str(len(cores))} if cores else {}
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or mine)  # a new process has those of the thread that starts it
    try:
        done = subprocess.run(
            [sys.executable, script, *flags],
            env={**os.environ, **changes, **(environment or {})},
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        os.sched_setaffinity(0, mine)
    if done.returncode:
        shown = " ".join(flags)
        raise InputError(f"{shown}: it ended with {done.returncode}; its message is above")
    return json.loads(done.stdout.splitlines()[-1])
