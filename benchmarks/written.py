"""What a benchmark leaves: OUT.json with the command, OUT.md with a table, the table on screen."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from l2ljax.runs.config import write_json
from l2ljax.terminal import align, markdown


def command(script: str, given: Mapping[str, Any]) -> str:
    """The command line that gives these flags; where data lie is the reader's own matter."""
    words = [f"--{name}={value}" for name, value in given.items() if name != "data_dir"]
    return f"python benchmarks/{script} {shlex.join(words)}".rstrip()


def machine(made: Mapping[str, str]) -> str:
    """`1 x CPU (...), 2 cores, jax 0.10.2, commit ...`."""
    versions = ", ".join(f"{name} {made[name]}" for name in ("jax", "torch") if name in made)
    return f"{made['device']}, {made['cores']} cores, {versions}, commit {made['commit']}"


def write(path: str, report: Mapping[str, Any], about: str, lines: Sequence[Sequence[str]]) -> None:
    """PATH.json and PATH.md: the command, the machine, what the table is about, the table."""
    out = pathlib.Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out.with_suffix(".json"), report)
    out.with_suffix(".md").write_text(
        f"Measured here: `{report['command']}`\n\n"
        f"{machine(report['made_with'])}. {about}\n\n{markdown(lines)}\n"
    )
    print(align(lines))
    print(f"written to {out}.md and {out}.json")
