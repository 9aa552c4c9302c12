"""What code asks about the devices it is mapped over, so that nobody has to pass it an axis name.

JAX knows while it traces whether a body is mapped over devices. `parallel` alone binds AXIS, when
it lays a step over devices by pmap. Everywhere else, with the batch sharded too, a body sees the
whole batch, and there is nothing to reduce.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from l2ljax.types import Array, Tree

AXIS = "l2ljax.devices"
"""The axis that pmap binds. No other code may map over an axis of this name."""


def is_mapped() -> bool:
    """Whether this code is being traced for one device of several."""
    try:
        lax.axis_size(AXIS)
    except NameError:
        return False
    return True


def over_devices(x: Tree, op: Callable[[Tree, str], Any] = lax.pmean) -> Tree:
    """op(x, AXIS), such as the mean over devices, where the body is mapped; x itself elsewhere."""
    return op(x, AXIS) if is_mapped() else x


def count() -> int:
    """How many devices share the batch that this body sees a part of."""
    return lax.axis_size(AXIS) if is_mapped() else 1


def index() -> Array | int:
    """Which of them this is, from 0."""
    return lax.axis_index(AXIS) if is_mapped() else 0


def own_key(key: Array) -> Array:
    """A key that no other device has, where the body is mapped; the key itself elsewhere."""
    return jax.random.fold_in(key, index()) if is_mapped() else key


def equal_on_all(update: Callable[[Tree, Tree], Tree], common: Tree, own: Tree) -> bool:
    """Whether update(common, own) is the same on every device, though each has an `own` of its own.

    It is asked within a mapped body, and nothing is computed: `shard_map` follows through the
    program which values differ between devices, and raises where one of them leaves it as common.
    It does so in a thread, where JAX does not know of the mapping that is being traced here.
    """
    devices, finished = count(), []
    mesh = AbstractMesh((devices,), (AXIS,), axis_types=(AxisType.Auto,))
    shared = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), common)
    whole = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((devices * leaf.shape[0], *leaf.shape[1:]), leaf.dtype),
        own,
    )

    def watched(common: Tree, own: Tree) -> Tree:
        out = update(common, own)
        finished.append(True)
        return out

    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    followed = jax.shard_map(
        watched, mesh=mesh, in_specs=(everywhere, split), out_specs=everywhere, check_vma=True
    )
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(jax.eval_shape, followed, shared, whole).result()
        except ValueError:
            if not finished:  # it is the update's own error
                raise
            return False
    return True
