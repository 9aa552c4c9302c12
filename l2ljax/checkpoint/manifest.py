"""What a checkpoint says of itself: its step, every leaf's path, dtype, shape and sha256, a seal.

A path is a string with "/" between the parts, so that one tree has the same paths, and the same
fingerprint, whether it is made of named tuples or of the nested dicts that are read back.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
