"""Checkpoints: saved atomically in the background, verified leaf by leaf when read.

    with Checkpoints(workdir, keep=2) as checkpoints:
        found = checkpoints.restore(jax.eval_shape(make_state))    # None: no checkpoint at all
        checkpoints.save(step, state, {"best": 0.47})

`<workdir>/checkpoints/last` keeps the newest `keep` and is what a run resumes from; `best`,
`best_ema` and `good` (what a run may be taken back to) keep one. Each is an orbax manager of its
own: one with `best_fn` may delete the newest.

Of several processes the first one alone saves and restores.

orbax loads a flipped byte without complaint. So each checkpoint carries a manifest with its step
and the sha256 of every leaf and of itself, and nothing is returned that differs from it.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from l2ljax.checkpoint.reader import (
    Leaf,
    fingerprint,
    first_process,
    flatten,
    holds,
    nest,
    newest_intact,
    pack,
    quiet_orbax,
    steps_in,
    write_manifest,
)
from l2ljax.errors import CheckpointError, word
from l2ljax.gate import check_count
from l2ljax.types import Tree

__all__ = ["CheckpointError", "Checkpoints", "Kind", "fingerprint", "restore_any"]

Kind = Literal["last", "best", "best_ema", "good"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# What orbax and TensorStore raise when a disk is full or a folder is not writable.
_UNWRITABLE = (OSError, ValueError, RuntimeError)


class Checkpoints:
    """The checkpoints of one run: `save`, and `restore` from the newest intact one.

    Damaged checkpoints are named to `report`, one line each. Nothing is created or cleaned in
    `workdir` before the first `save`, so a reader never disturbs a run that is writing.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        keep: int = 2,
        report: Callable[[str], None] = logging.warning,
    ):
        """Of the run in `workdir`; `keep` counts the newest ones kept in `last`."""
        check_count("keep", keep)
        self._folder = _root(workdir)
        self._keep: dict[Kind, int] = {"last": keep, "best": 1, "best_ema": 1, "good": 1}
        self._report = report
        self._writers: dict[Kind, ocp.CheckpointManager] = {}
        self._quiet = contextlib.ExitStack()  # entered by the first writer, left by `close`

    def save(self, step: int, state: Tree, notes: Mapping[str, Any], *, kind: Kind = "last"):
        """Write `state` and the JSON-able `notes`; the device buffers are free on return.

        `step` becomes the newest checkpoint: steps beyond it (damaged, or of a run since rolled
        back) are removed, and the same step is replaced, unless it is already there, intact and
        equal. What went wrong in the background is raised by the kind's next `save`, by `wait` and
        by `close`.
        """
        word("kind", kind, KINDS)
        if isinstance(step, float) or step < 0:
            raise CheckpointError(f"step={step} must be a whole number, 0 or above")
        self._wait(kind)
        leaves = jax.device_get(flatten(state))
        manifest = write_manifest(step, leaves, state, notes)
        # One array, not a tree: reading a damaged tree, orbax leaves reads in flight that print a
        # traceback each. And packing copies: on the CPU the next step may donate these buffers.
        items = ocp.args.Composite(
            leaves=ocp.args.StandardSave({"packed": pack(leaves)}),
            manifest=ocp.args.JsonSave(manifest),
        )
        try:
            writer = self._writer(kind)
            steps = writer.all_steps()
            for beyond in (old for old in steps if old > step):
                writer.delete(beyond)
            if step in steps:
                if holds(self._folder / kind / str(step), manifest):
                    return
                writer.delete(step)
            writer.save(step, args=items, force=True)
        except _UNWRITABLE as error:
            raise self._unwritable(kind, error) from error

    def restore(self, abstract: Tree, *, kind: Kind = "last") -> tuple[Tree, dict, int] | None:
        """(state, notes, step) of the newest intact checkpoint; None if there is none at all.

        `abstract` (from `jax.eval_shape`) gives the structure; bits come back as they were saved.
        """
        word("kind", kind, KINDS)
        self.wait()
        wanted = {path: Leaf(str(x.dtype), tuple(x.shape)) for path, x in flatten(abstract).items()}
        found = newest_intact(self._folder / kind, self._report, wanted)
        if found is None:
            return None
        leaves, manifest, step = found
        # Copied: a device array that aliases NumPy's memory must not reach a donating step.
        leaves = [jnp.array(leaves[path]) for path in wanted]
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves), manifest["notes"], step

    def steps(self, kind: Kind = "last") -> list[int]:
        """The steps completely written, damaged ones included, in increasing order."""
        return steps_in(self._folder / kind)

    def wait(self):
        """Block until everything saved is on the disk."""
        for kind in self._writers:
            self._wait(kind)

    def close(self):
        """Finish what is being written and stop the background threads."""
        with self._quiet:
            try:
                self.wait()
            finally:
                for kind in list(self._writers):
                    self._writers.pop(kind).close()

    def __enter__(self) -> "Checkpoints":
        """Itself."""
        return self

    def __exit__(self, *exception: object):
        """Close, whatever happened."""
        self.close()

    def _writer(self, kind: Kind) -> ocp.CheckpointManager:
        if not self._writers:
            self._quiet.enter_context(quiet_orbax())
        if kind not in self._writers:
            folder, several = self._folder / kind, jax.process_count() > 1
            if several:  # orbax creates no folder for some of the processes
                folder.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep[kind],
                cleanup_tmp_directories=True,
                create=not several,
                multiprocessing_options=first_process(),
            )
            self._writers[kind] = ocp.CheckpointManager(folder, options=options)
        return self._writers[kind]

    def _wait(self, kind: Kind):
        if kind in self._writers:
            try:
                self._writers[kind].wait_until_finished()
            except _UNWRITABLE as error:
                raise self._unwritable(kind, error) from error

    def _unwritable(self, kind: Kind, error: BaseException) -> CheckpointError:
        return CheckpointError(f"cannot write to {self._folder / kind}: {_brief(error)}")


def restore_any(
    workdir: str | Path,
    *,
    kind: Kind = "last",
    report: Callable[[str], None] = logging.warning,
) -> tuple[dict, dict, int]:
    """(nested dicts of NumPy arrays, notes, step), without knowing the structure beforehand.

    Fields of named tuples become keys, and so do positions ("0", "1"); empty subtrees are {}.
    """
    word("kind", kind, KINDS)
    found = newest_intact(_root(workdir) / kind, report, wanted=None)
    if found is None:
        raise CheckpointError(f"{workdir} holds no checkpoint")
    leaves, manifest, step = found
    empty: dict[str, Any] = {path: {} for path in manifest["empty"]}
    return nest(leaves | empty), manifest["notes"], step


def _root(workdir: str | Path) -> Path:
    # orbax takes no relative path.
    workdir = Path(workdir).absolute()
    if workdir.exists() and not workdir.is_dir():
        raise CheckpointError(f"{workdir} is a file: give the folder of a run")
    if any((workdir / kind).is_dir() for kind in KINDS):
        raise CheckpointError(f"{workdir} holds the checkpoints themselves: give {workdir.parent}")
    return workdir / "checkpoints"


def _brief(error: BaseException) -> str:
    """One short line: the system's own words, or the innermost clause of TensorStore's."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    clause = str(error).partition("\n")[0].partition(" [")[0].rpartition(": ")[-1]
    return f"{type(error).__name__}: {clause[:80]}"


class CheckpointsInMemory:
    """In place of `Checkpoints`, for a run without a folder: the newest of each kind, copied."""

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self._kept: dict[str, tuple[Tree, str, int]] = {}

    def save(self, step: int, state: Tree, notes: Mapping[str, Any], *, kind: str = "last") -> None:
        """Keep copies of the state and of the notes in place of those of that kind."""
        self._kept[kind] = jax.tree.map(_copy, state), json.dumps(dict(notes)), int(step)

    def restore(self, abstract: Tree, *, kind: str = "last") -> tuple[Tree, dict, int] | None:
        """(state, notes, step) as they were saved; None where nothing was."""
        if kind not in self._kept:
            return None
        state, notes, step = self._kept[kind]
        return jax.tree.map(jnp.array, state), json.loads(notes), step

    def steps(self, kind: str = "last") -> list[int]:
        """The step that is kept, if there is one."""
        return [self._kept[kind][2]] if kind in self._kept else []

    def wait(self) -> None:
        """Nothing is written in the background."""

    def close(self) -> None:
        """Nothing is open."""


def _copy(leaf: Any) -> Any:
    # A copy: the next step may donate the buffer that an array on the CPU shares with JAX.
    return np.array(leaf)
