"""The newest intact checkpoint of a folder: read, verified, or passed over for the one before.

An architecture that differs is found in the manifest, before an array is read, and is an error: it
is no damage, and falling back to an older checkpoint would not help.
"""

import contextlib
import logging as python_logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from l2ljax.checkpoint.manifest import Leaf, describe, read_manifest, show, unpack
from l2ljax.errors import CheckpointError

# What orbax and TensorStore raise on files that are missing, cut or overwritten.
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError)


class _Damage(Exception):
    """Why one checkpoint cannot be used, in a few words."""


def newest_intact(
    folder: Path, report: Callable[[str], None], wanted: Mapping[str, Leaf] | None
) -> tuple[dict[str, np.ndarray], dict, int] | None:
    """(leaves by path, manifest, step); None without checkpoints. Damaged ones go to `report`.

    Where `wanted` is given, another architecture is an error and no damage.
    """
    steps = steps_in(folder)
    with quiet_orbax():
        for step in reversed(steps):
            try:
                manifest = _manifest(folder / str(step))
                if wanted is not None:
                    _compare(folder / str(step), manifest["leaves"], wanted)
                return _verified(folder / str(step), manifest["leaves"]), manifest, step
            except _Damage as damage:
                report(f"checkpoint {folder / str(step)} is damaged: {damage}")
    if steps:
        raise CheckpointError(f"no intact checkpoint among the {len(steps)} in {folder}")
    return None


def _manifest(folder: Path) -> dict:
    manifest = read_manifest(_read(folder, "manifest", ocp.args.JsonRestore()))
    if manifest is None:
        raise _Damage("the manifest does not match its checksum")
    # Older checkpoints do not say their step: the folder's name is all that is known of it.
    saved_as = manifest.get("step", int(folder.name))
    if saved_as != int(folder.name):
        raise _Damage(f"it was saved as step {saved_as}, and its folder was copied or renamed")
    return manifest


def _verified(folder: Path, entries: Mapping[str, Leaf]) -> dict[str, np.ndarray]:
    tree = _read(folder, "leaves", ocp.args.StandardRestore())
    try:
        leaves = unpack(np.asarray(tree["packed"]), entries)
    except (KeyError, ValueError) as error:
        raise _Damage("the leaves are not those of the manifest") from error
    for path, leaf in leaves.items():
        if describe(leaf) != entries[path]:
            raise _Damage(f"{path} does not match its checksum")
    return leaves


def _read(folder: Path, item: str, how: Any) -> Any:
    try:
        if not any(folder.iterdir()):
            raise _Damage("the folder is empty")
        alone = first_process()
        handler = ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
        )
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
            return reader.restore(folder, args=ocp.args.Composite(**{item: how}))[item]
    except _UNREADABLE as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise _Damage(f"the {item} cannot be read ({why})") from error


def first_process() -> ocp.options.MultiprocessingOptions:
    """Of several processes the first alone reads and writes: orbax is not to wait for the rest."""
    active = {0} if jax.process_count() > 1 else None
    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes=active)


def holds(folder: Path, manifest: dict) -> bool:
    """Whether the checkpoint on the disk is intact and has exactly this manifest."""
    try:
        found = _manifest(folder)
        _verified(folder, found["leaves"])
    except _Damage:
        return False
    return found["sha256"] == manifest["sha256"]


def _compare(folder: Path, stored: Mapping[str, Leaf], wanted: Mapping[str, Leaf]):
    differing = [
        f"{path} is {show(stored.get(path))} there and {show(wanted.get(path))} here"
        for path in {**wanted, **stored}
        if show(stored.get(path)) != show(wanted.get(path))
    ]
    if differing:
        more = f", and {len(differing) - 3} more leaves" if len(differing) > 3 else ""
        raise CheckpointError(
            f"{folder} holds another architecture: {'; '.join(differing[:3])}{more}"
        )


def steps_in(folder: Path) -> list[int]:
    """The steps completely written, damaged ones included, in increasing order."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Meanwhile orbax's commentary and tracebacks stay out of absl's log.

    What goes wrong reaches the caller as an exception anyway.
    """

    def is_news(record: python_logging.LogRecord) -> bool:
        if "orbax" not in PurePath(record.pathname).parts:
            return True
        return record.levelno >= python_logging.WARNING and not record.exc_info

    logger = logging.get_absl_logger()
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
