"""One device, several, or several hosts: how the one step body is laid over them.

    layout = lay_out("pmap", batch_size=128)
    order = layout.deal(order, part_size=128)    # batch_size // accumulate
    arguments = (*layout.replicate((state, x, y, rng)), layout.place(order))
    program = layout.compile(train_step, *arguments)
    state, metrics = program(*arguments)
    theta = layout.first(state).theta

`none` is `jit` on one device. `pmap` runs the body once per device on its rows of the batch, with
collectives over `axis_name`; `sharding` is `jit` of the single-device body with the batch sharded
over a mesh, and XLA puts the collectives in. The one surprising thing: in all three the rows of a
batch and what is drawn for each of them are those of one device, so that a run depends on the
number of devices by the order of sums alone.
"""

import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from l2ljax.devices import AXIS
from l2ljax.errors import nearest
from l2ljax.types import Tree

Kind = Literal["none", "pmap", "sharding"]
KINDS: tuple[Kind, ...] = ("none", "pmap", "sharding")


class Layout(NamedTuple):
    """How a step is laid over the devices of all processes, and an evaluation over our own."""

    kind: Kind

    @property
    def axis_name(self) -> str | None:
        """The axis over which the step body reduces; None where it sees the whole batch."""
        return AXIS if self.kind == "pmap" else None

    @property
    def size(self) -> int:
        """Devices that share a batch."""
        return 1 if self.kind == "none" else jax.device_count()

    def rows(self, batch_size: int) -> int:
        """Images of a batch that one call of the step body sees."""
        return batch_size // self.size if self.kind == "pmap" else batch_size

    def replicate(self, tree: Tree) -> Tree:
        """Every array on every device, as the compiled body takes it."""
        if self.kind == "pmap":
            return _copies(np.zeros(jax.local_device_count()), tree)
        if self.kind == "sharding":
            return _put(tree, _sharding(jax.devices(), PartitionSpec()))
        return jax.device_put(tree)

    def place(self, tree: Tree) -> Tree:
        """What `deal` has cut for our devices, brought there; elsewhere it is the same for all."""
        if self.kind != "pmap":
            return self.replicate(tree)
        return _each(tree)

    def first(self, tree: Tree) -> Tree:
        """What a replicated tree holds, on one device; it goes when the tree is donated."""
        if self.kind == "none":
            return tree
        single = jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
        return jax.tree.map(lambda leaf: leaf[0], single) if self.kind == "pmap" else single

    def deal(self, order: Any, *, part_size: int) -> np.ndarray:
        """Of an epoch's permutation, what each device takes: its rows of one part after another.

        `part_size` is batch_size // accumulate, the images of one part of a batch on all devices:
        the devices share every part, as `ball.batch_rows` numbers its rows. Given the whole batch
        instead, an image would get other noise than on one device. Where one body sees the whole
        batch, the answer is the permutation itself.
        """
        if self.kind != "pmap":
            return np.asarray(order)
        count = len(order) // part_size
        parts = np.asarray(order)[: count * part_size].reshape(count, self.size, -1)
        places = _places(np.zeros(jax.local_device_count()))
        mine = [int(shard.data[0]) for shard in places.addressable_shards]
        return np.stack([parts[:, place].reshape(-1) for place in mine])

    def cut(self, batch: Tree) -> Tree:
        """Within the body: the batch cut over the devices, where pmap does not do it."""
        if self.kind != "sharding":
            return batch
        cut = _sharding(jax.devices(), PartitionSpec(AXIS))
        return jax.lax.with_sharding_constraint(batch, cut)

    def compile(self, body: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
        """The body compiled for these arguments; the first one, the state, is donated."""
        if self.kind == "pmap":
            compiled = jax.pmap(body, axis_name=AXIS, donate_argnums=0)
            # Of several processes, pmap takes the own devices' arrays, what it lowers to does not:
            # there it compiles at the first call.
            return compiled if jax.process_count() > 1 else compiled.lower(*arguments).compile()
        return jax.jit(body, donate_argnums=0).lower(*arguments).compile()

    @property
    def spread(self) -> int:
        """Devices of this process over which an evaluation is spread."""
        return 1 if self.kind == "none" else jax.local_device_count()

    def whole(self, tree: Tree) -> Tree:
        """For an evaluation: the same on each of our devices."""
        return tree if self.spread == 1 else jax.device_put(tree, _local(PartitionSpec()))

    def full(self, batch_size: int) -> int:
        """For an evaluation: the next batch size that divides over our devices."""
        return -(-batch_size // self.spread) * self.spread

    def share(self, batch: Any) -> Any:
        """For an evaluation: images cut over our devices; their number must divide."""
        return batch if self.spread == 1 else jax.device_put(batch, _local(PartitionSpec(AXIS)))


ONE = Layout("none")
"""One device."""


def lay_out(kind: str | None, *, batch_size: int, accumulate: int = 1) -> Layout:
    """The layout for batches of that size; no kind means pmap where there are several devices."""
    if kind is not None and kind not in KINDS:
        raise ValueError(nearest("parallel", kind, KINDS))
    count = jax.device_count()
    kind = kind or ("pmap" if count > 1 else "none")
    if kind == "none" and jax.process_count() > 1:
        raise ValueError(f"parallel=none is one device, and there are {jax.process_count()} hosts")
    layout = Layout(cast(Kind, kind))
    pieces = layout.size * accumulate
    if batch_size % pieces:
        near = [n for n in (batch_size // pieces * pieces, -(-batch_size // pieces) * pieces) if n]
        parts = f"{layout.size} devices" + (f" x {accumulate}" if accumulate > 1 else "")
        raise ValueError(
            f"a batch of {batch_size} images does not divide over {parts}: "
            f"take {' or '.join(map(str, near))}"
        )
    return layout


def beside(kind: str | None) -> Layout:
    """The layout of an evaluation: over all our devices unless told `none`."""
    return ONE if kind == "none" or jax.local_device_count() == 1 else Layout("sharding")


def leads() -> bool:
    """Whether this process is the one that logs and writes."""
    return jax.process_index() == 0


def agree(value: Any) -> Any:
    """The first process's JSON-able value, in every process."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = multihost_utils.broadcast_one_to_all(np.resize(text, size))
    return json.loads(bytes(text).decode())


def agree_on(tree: Tree) -> Tree:
    """The first process's arrays, in every process."""
    return multihost_utils.broadcast_one_to_all(tree) if jax.process_count() > 1 else tree


def largest(*values: int) -> tuple[int, ...]:
    """Each the largest of all processes' values."""
    if jax.process_count() == 1:
        return values
    gathered = multihost_utils.process_allgather(np.array(values, np.int32))
    return tuple(map(int, np.max(gathered, axis=0)))


def _sharding(devices: list, spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,)), spec)


def _put(tree: Tree, sharding: NamedSharding) -> Tree:
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def one(leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf)))
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(one, tree)


def _local(spec: PartitionSpec) -> NamedSharding:
    return _sharding(jax.local_devices(), spec)


def _copies(each: np.ndarray, tree: Tree) -> Tree:
    return jax.pmap(lambda _, tree: tree, in_axes=(0, None))(each, tree)


def _each(tree: Tree) -> Tree:
    return jax.pmap(lambda tree: tree)(tree)


def _places(each: np.ndarray) -> Any:
    return jax.pmap(lambda _: jax.lax.axis_index(AXIS), axis_name=AXIS)(each)
