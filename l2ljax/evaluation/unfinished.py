"""An evaluation that was interrupted: per-image state in one file beside its output.

Written whole or not at all, sealed with a sha256 of its bytes, and removed when the evaluation is
done. The same command goes on from it; any other command is refused and told what differs.
"""

import hashlib
import io
import json
import os
import pathlib
from typing import Any

import numpy as np

from l2ljax.attacks.cascade import State
from l2ljax.errors import InputError

Begun = dict[str, tuple[State, dict[int, float]]]
"""By the attack's name: its state, and the seconds that each of its runs has had."""

SEAL = 32
"""Bytes of the sha256 in front of the file."""


class Unfinished:
    """The file of an evaluation that is described by `identity`, a flat dict of its settings."""

    def __init__(self, path: pathlib.Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))

    def load(self) -> Begun:
        """What was begun; nothing if there is no file."""
        if not self.path.exists():
            return {}
        sealed = self.path.read_bytes()
        if hashlib.sha256(sealed[SEAL:]).digest() != sealed[:SEAL]:
            raise InputError(f"{self.path} is damaged: delete it to evaluate from the start")
        with np.load(io.BytesIO(sealed[SEAL:])) as arrays:
            document = json.loads(str(arrays["document"]))
            mine, theirs = self.identity, document["identity"]
            other = [k for k in {**theirs, **mine} if mine.get(k) != theirs.get(k)]
            if other:
                changed = "; ".join(f"{k}: {theirs.get(k)} -> {mine.get(k)}" for k in other)
                raise InputError(
                    f"{self.path} is of another unfinished evaluation ({changed}): "
                    "finish that one, delete the file, or give another --output"
                )
            return {
                entry["attack"]: (
                    State(fell=arrays[f"fell{i}"], x_adv=arrays[f"x_adv{i}"], **entry["state"]),
                    {int(run): spent for run, spent in entry["seconds"].items()},
                )
                for i, entry in enumerate(document["begun"])
            }

    def save(self, begun: Begun) -> None:
        """All of it, or what was there before."""
        arrays: dict[str, Any] = {}
        entries = []
        for i, (attack, (state, seconds)) in enumerate(begun.items()):
            fields = state._asdict()
            arrays |= {f"{name}{i}": fields.pop(name) for name in ("fell", "x_adv")}
            entries.append({"attack": attack, "state": fields, "seconds": seconds})
        document = {"identity": self.identity, "begun": entries}
        buffer = io.BytesIO()
        np.savez(buffer, document=np.array(json.dumps(document)), **arrays)
        content = buffer.getvalue()
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_bytes(hashlib.sha256(content).digest() + content)
        os.replace(partial, self.path)

    def remove(self) -> None:
        """The evaluation is done."""
        self.path.unlink(missing_ok=True)
