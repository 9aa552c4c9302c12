"""Finished parts of a long measurement, kept under a key made of everything they depend on."""

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Unfinished(LookupError):
    """A part that no run has finished yet; the message is its label."""


class Kept:
    """Finished parts: `part(key, make)` is what make() returned, now or in an earlier run.

    With `only`, nothing is made: a part that is not there is Unfinished.
    """

    def __init__(self, folder: pathlib.Path, *, only: bool = False):
        self.folder, self.only = folder, only

    def part(self, label: str, key: Sequence[Any], make: Callable[[], dict[str, Any]]):
        """Arrays and numbers by name; `seconds` is what they took when they were made."""
        digest = hashlib.sha256(json.dumps([label, *map(str, key)]).encode()).hexdigest()[:16]
        path = self.folder / f"{label.replace(' ', '_')}-{digest}.npz"
        if not path.exists():
            if self.only:
                raise Unfinished(label)
            began = time.perf_counter()
            made = make()
            made["seconds"] = time.perf_counter() - began
            partial = path.with_suffix(".partial.npz")
            np.savez_compressed(partial, **made)
            os.replace(partial, path)
            print(f"{label}: {made['seconds']:.0f} s", flush=True)
        with np.load(path) as file:
            return {name: file[name] for name in file.files}


DECIDE = (
    *(f"attacks/{name}.py" for name in ("apgd", "fab", "square")),
    *(f"attacks/{name}.py" for name in ("autoattack", "cascade", "loop")),
    "ball.py",
    "losses.py",
    "target.py",
)
"""The modules of the package that decide what our four attacks do."""


@functools.cache
def sources() -> str:
    """What our attacks are made of when first asked: a change makes their parts anew.

    A changed comment is no change.
    """
    package = pathlib.Path(__file__).resolve().parents[2] / "l2ljax"
    trees = [ast.dump(ast.parse((package / name).read_text())) for name in DECIDE]
    return hashlib.sha256("".join(trees).encode()).hexdigest()


def version() -> str:
    """Of the official attacks."""
    return importlib.metadata.version("pyautoattack")
