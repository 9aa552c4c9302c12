"""The folder of a run: whose it is, who may write in it, and how."""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from l2ljax.errors import InputError
from l2ljax.runs.config import differences, read_json


def open_workdir(workdir: pathlib.Path, described: Mapping[str, Any]) -> None:
    """Make the folder and write config.json; a folder that holds another run is refused."""
    path = workdir / "config.json"
    if path.exists():
        changed = differences(read_json(workdir), described)
        if changed:
            raise InputError(
                f"{workdir} holds a run with other flags ({'; '.join(changed)}): "
                "give them as they were, or another --workdir"
            )
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if any(workdir.iterdir()):
            raise InputError(f"{workdir} is not empty and holds no run: give another --workdir")
        write_json(path, described)
    except OSError as error:
        raise InputError(f"{workdir} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Nobody else trains in this folder meanwhile; the lock goes with the process."""
    with (workdir / "config.json").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{workdir}: another process is training there") from None
        yield


def check_output(flag: str, path: pathlib.Path) -> None:
    """A InputError unless a file of that name can be written; said before the work is done."""
    if path.is_dir():
        raise InputError(f"--{flag}={path} is a folder: give the name of a file")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--{flag}={path} cannot be written: there is no such folder to write in")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Written whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(partial, path)
