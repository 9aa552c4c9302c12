"""What code asks while it is traced: over which devices it is mapped, and for which processor.

So nobody has to pass it an axis name. JAX knows while it traces whether a body is mapped over
devices. `parallel` alone binds AXIS, when it lays a step over devices by pmap. Everywhere else,
with the batch sharded too, a body sees the whole batch, and there is nothing to reduce.

Which kind of processor a program is compiled for can be chosen:

    with devices.compiling_for("gpu"):
        program = jax.jit(step).lower(*arguments)     # as a GPU gets it, wherever this runs

XLA's CPU backend is slow at some things that GPU and TPU do well. Code that takes another way there
asks `is_cpu()` while it is traced. It must not ask which backend is running: a program for a GPU
can be lowered on a machine that has none. The ways that differ are `repeat` below, `iterate` of
`attacks.entrance`, the networks' `convolve` in `models.layers`, and how `apply.initialise`
compiles.

JAX knows of this choice: what was traced for one target is traced anew for another.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, cast

import jax
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from l2ljax.errors import word
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


Platform = Literal["cpu", "gpu", "tpu"]
PLATFORMS: tuple[Platform, ...] = ("cpu", "gpu", "tpu")

GPUS = ("cuda", "rocm")
"""Two names of JAX for a GPU; programs for both are made alike."""

_CHOSEN = jax.make_user_context(None)


@contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Inside, programs are traced for "cpu", "gpu" or "tpu"; cuda and rocm mean gpu."""
    platform = "gpu" if platform in GPUS else platform
    word("platform", platform, PLATFORMS)
    with _CHOSEN(platform):
        yield


def platform() -> Platform:
    """What programs are traced for: as chosen, or else JAX's own backend on this machine."""
    found = _CHOSEN.value or jax.default_backend()
    return "gpu" if found in GPUS else cast(Platform, found)


def is_cpu() -> bool:
    """Whether programs are traced for a CPU."""
    return platform() == "cpu"


def jit_is_disabled() -> bool:
    """Whether JAX runs functions line by line, because JAX_DISABLE_JIT is set."""
    return jax.config.jax_disable_jit  # pyright: ignore


def repeat(body: Callable[[Tree], Tree], carry: Tree, times: int) -> Tree:
    """`times` applications of body: by `lax.scan`, which is unrolled for a CPU.

    XLA's CPU backend runs a convolution inside a loop 7 to 18 times slower than outside
    (github.com/jax-ml/jax/issues/12868). GPU and TPU keep the loop and its short compile time.
    """
    if times == 1:  # scan would make a loop of it, which XLA removes too late to help
        return body(carry)
    unroll = times if is_cpu() else 1
    return jax.lax.scan(lambda c, _: (body(c), None), carry, length=times, unroll=unroll)[0]
