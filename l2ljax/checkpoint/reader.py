"""The newest intact checkpoint of a folder: read, verified, or passed over for the one before.

A manifest says what a checkpoint holds: its step, every leaf's path, dtype, shape and sha256, and a
seal over all of it. A path is a string with "/" between the parts, so that one tree has the same
paths, and the same fingerprint, whether it is made of named tuples or of the nested dicts that are
read back.

An architecture that differs is found in the manifest, before an array is read, and is an error: it
is no damage, and falling back to an older checkpoint would not help.
"""

import contextlib
import hashlib
import json
import logging as python_logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from l2ljax.errors import CheckpointError
from l2ljax.types import Tree


class Leaf(NamedTuple):
    """A leaf without its numbers; `sha256` is of dtype, shape and bytes ("" where unknown)."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str = ""


def show(leaf: Leaf | None) -> str:
    """float32[3,16], or "absent"."""
    return "absent" if leaf is None else f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def flatten(tree: Tree, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Path -> leaf, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    if len(flat) != len(leaves):
        raise ValueError("two leaves have the same path: a key of the tree contains '/'")
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Path -> leaf as nested dicts; positions in tuples become the keys "0", "1"."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def describe(x: np.ndarray) -> Leaf:
    """The leaf's entry in a manifest."""
    digest = hashlib.sha256(f"{x.dtype}{x.shape}".encode())
    digest.update(_bytes(x).data)
    return Leaf(str(x.dtype), x.shape, digest.hexdigest())


def pack(leaves: Mapping[str, np.ndarray]) -> np.ndarray:
    """The bytes of all leaves, one after the other: a copy."""
    return np.concatenate([_bytes(x) for x in leaves.values()])


def unpack(packed: np.ndarray, entries: Mapping[str, Leaf]) -> dict[str, np.ndarray]:
    """Path -> leaf, each a copy; inverse of `pack`, ValueError if the length is wrong."""
    dtypes = [jnp.dtype(entry.dtype) for entry in entries.values()]
    sizes = [math.prod(e.shape) * d.itemsize for e, d in zip(entries.values(), dtypes, strict=True)]
    if packed.dtype != np.uint8 or packed.shape != (sum(sizes),):
        raise ValueError(f"expected {sum(sizes)} bytes, found {packed.dtype}{packed.shape}")
    parts = np.split(packed, np.cumsum(sizes)[:-1])
    return {
        path: part.copy().view(dtype).reshape(entry.shape)
        for (path, entry), dtype, part in zip(entries.items(), dtypes, parts, strict=True)
    }


def write_manifest(
    step: int, leaves: Mapping[str, np.ndarray], tree: Tree, notes: Mapping[str, Any]
) -> dict:
    """The sealed JSON of the step, of `leaves` (those of `tree`), its empty subtrees and notes."""

    def empty(node: Any) -> bool:
        return not jax.tree.leaves(node)

    body = {
        "step": int(step),
        "leaves": {path: describe(x) for path, x in leaves.items()},
        "empty": [path for path, node in flatten(tree, is_leaf=empty).items() if empty(node)],
        "notes": dict(notes),
    }
    return {"sha256": _seal(body), **json.loads(json.dumps(body))}


def read_manifest(document: Any) -> dict | None:
    """The manifest, its leaves as `Leaf`; None if it is not what was sealed."""
    if not isinstance(document, dict):
        return None
    body = {key: value for key, value in document.items() if key != "sha256"}
    if document.get("sha256") != _seal(body):
        return None
    leaves = {path: Leaf(d, tuple(shape), sha) for path, (d, shape, sha) in body["leaves"].items()}
    return {**document, "leaves": leaves}


def fingerprint(tree: Tree) -> str:
    """The sha256 over every leaf's path, dtype, shape and bytes, in the order of the paths."""
    digest = hashlib.sha256()
    for path, x in sorted(jax.device_get(flatten(tree)).items()):
        digest.update(f"{path} {describe(np.asarray(x)).sha256}\n".encode())
    return digest.hexdigest()


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


def _seal(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


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
