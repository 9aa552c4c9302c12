"""What a step body asks about the devices it is mapped over: nothing has to be passed to it.

Whether a body is mapped over devices is known to JAX while it traces. `parallel` alone binds AXIS,
when it lays a step over devices by pmap. Everywhere else, with the batch sharded too, a body sees
the whole batch, and there is nothing to reduce.
"""

from collections.abc import Callable
from typing import Any

from jax import lax

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
