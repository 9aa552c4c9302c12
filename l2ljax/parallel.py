"""One device, several, or several hosts: how the one step body is laid over them.

    layout = lay_out(None, batch_size=128)          # all visible devices
    order = layout.rows_of_devices(order, part_size=128)    # batch_size // accumulate
    arguments = (*layout.replicate((state, x, y, rng)), layout.put_batch(order))
    program = layout.compile(train_step, *arguments)
    state, metrics = program(*arguments)
    theta = layout.unreplicate(state).theta

`none` is `jit` on one device. `sharding`, the default on several, is `jit` of the same body with
the batch split over a mesh, and XLA puts the collectives in; it is right for every model. `pmap`
runs the body once per device on its rows of the batch, and the body itself reduces over `devices`;
JAX keeps it in maintenance only. In all three the rows of a batch, and what is drawn for each of
them, are those of one device: a run depends on the number of devices by the order of sums alone.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from l2ljax.devices import AXIS, jit_is_disabled
from l2ljax.errors import InputError, word
from l2ljax.types import Tree

Kind = Literal["none", "pmap", "sharding"]
KINDS: tuple[Kind, ...] = ("none", "pmap", "sharding")


class Layout(NamedTuple):
    """How a step is laid over the devices of all processes, and an evaluation over our own."""

    kind: Kind
    devices: tuple[Any, ...] = ()
    """Those of a machine that is compiled for and not there; none means those that are there."""

    @property
    def device_count(self) -> int:
        """Devices that share a batch."""
        return 1 if self.kind == "none" else len(self._all)

    @property
    def _all(self) -> list[Any]:
        return list(self.devices) or jax.devices()

    def describe(self) -> str:
        """The layout in words, such as "the batch sharded over 2 CPU devices"."""
        count, kind = self.device_count, jax.devices()[0].platform.upper()
        devices = f"{count} {kind} device{'s' * (count > 1)}"
        if jax.process_count() > 1:
            devices += f" of {jax.process_count()} processes"
        words = {
            "none": f"one {kind} device",
            "sharding": f"the batch sharded over {devices}",
            "pmap": f"pmap over {devices}",
        }
        return words[self.kind]

    def rows_per_call(self, batch_size: int) -> int:
        """Images of a batch that one call of the step body sees."""
        return batch_size // self.device_count if self.kind == "pmap" else batch_size

    def replicate(self, tree: Tree) -> Tree:
        """Every array on every device, as the compiled body takes it."""
        if self.kind == "pmap":
            return _copies(np.zeros(jax.local_device_count()), tree)
        if self.kind == "sharding":
            return _put(tree, _sharding(jax.devices(), PartitionSpec()))
        return jax.device_put(tree)

    def put_batch(self, tree: Tree) -> Tree:
        """What `rows_of_devices` has split, brought to our devices."""
        return _split_by_device(tree) if self.kind == "pmap" else self.replicate(tree)

    def shapes(self, tree: Tree, *, split: bool = False) -> Tree:
        """What `replicate` or, if it is split, `put_batch` would return, as shapes alone."""
        everywhere = _sharding(self._all[: self.device_count], PartitionSpec())

        def one(leaf: Any) -> jax.ShapeDtypeStruct:
            if self.kind == "pmap":
                shape = leaf.shape if split else (self.device_count, *leaf.shape)
                return jax.ShapeDtypeStruct(shape, leaf.dtype)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)

        return jax.tree.map(one, tree)

    def unreplicate(self, tree: Tree) -> Tree:
        """What a replicated tree holds, on one device; it goes when the tree is donated."""
        if self.kind == "none":
            return tree
        single = jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
        return jax.tree.map(lambda leaf: leaf[0], single) if self.kind == "pmap" else single

    def rows_of_devices(self, order: Any, *, part_size: int) -> np.ndarray:
        """Of an epoch's permutation, what each device takes: its rows of one part after another.

        `part_size` is batch_size // accumulate, the images of one part of a batch on all devices:
        the devices share every part, as `ball.batch_rows` numbers its rows. Given the whole batch
        instead, an image would get other noise than on one device. Where one body sees the whole
        batch, the answer is the permutation itself.
        """
        if self.kind != "pmap":
            return np.asarray(order)
        count = len(order) // part_size
        parts = np.asarray(order)[: count * part_size].reshape(count, self.device_count, -1)
        numbers = _device_numbers(np.zeros(jax.local_device_count()))
        ours = [int(shard.data[0]) for shard in numbers.addressable_shards]
        return np.stack([parts[:, number].reshape(-1) for number in ours])

    def shard_batch(self, batch: Tree) -> Tree:
        """Within the body: the batch split over the devices, where pmap does not do it."""
        if self.kind != "sharding":
            return batch
        split = _sharding(self._all, PartitionSpec(AXIS))
        return jax.lax.with_sharding_constraint(batch, split)

    def compile(self, body: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
        """The body compiled for these arguments; the first one, the state, is donated.

        Where JAX_DISABLE_JIT is set, to look into a run, nothing is compiled here: it is the body
        itself that is returned, or pmap of it.
        """
        disabled = jit_is_disabled()
        # Of several processes, pmap takes the own devices' arrays, what it lowers to does not:
        # there it compiles at the first call.
        if self.kind == "pmap" and (disabled or jax.process_count() > 1):
            return self._mapped(body)
        return body if disabled else self.lower(body, *arguments).compile()

    def lower(self, body: Callable[..., Any], *arguments: Any) -> Any:
        """The body as `compile` gives it to XLA; shapes do instead of arguments."""
        mapped = self.kind == "pmap"
        program = self._mapped(body) if mapped else jax.jit(body, donate_argnums=0)
        return program.lower(*arguments)

    def _mapped(self, body: Callable[..., Any]) -> Any:
        devices = self.devices or None
        return jax.pmap(body, axis_name=AXIS, donate_argnums=0, devices=devices)

    @property
    def evaluation_devices(self) -> int:
        """Devices of this process over which an evaluation is split."""
        return 1 if self.kind == "none" else jax.local_device_count()

    def put_for_evaluation(self, tree: Tree) -> Tree:
        """The same on each of the devices of an evaluation."""
        return tree if self.evaluation_devices == 1 else jax.device_put(tree, _local())

    def round_up(self, batch_size: int) -> int:
        """The next batch size of an evaluation that divides over its devices."""
        return -(-batch_size // self.evaluation_devices) * self.evaluation_devices

    def split_for_evaluation(self, batch: Any) -> Any:
        """Images split over the devices of an evaluation; their number must divide."""
        return batch if self.evaluation_devices == 1 else jax.device_put(batch, _local(AXIS))


ONE_DEVICE = Layout("none")


def lay_out(
    kind: str | None, *, batch_size: int, accumulate: int = 1, devices: Sequence[Any] = ()
) -> Layout:
    """The layout for batches of that size; no kind means sharding where there are several devices.

    `accumulate` is the number of parts in which a batch is taken, and `devices` are those of a
    machine that is compiled for and not there.
    """
    if kind is not None:
        word("parallel", kind, KINDS)
    kind = kind or ("sharding" if len(devices or jax.devices()) > 1 else "none")
    if kind == "none" and jax.process_count() > 1 and not devices:
        raise InputError(f"parallel=none is one device, and there are {jax.process_count()} hosts")
    layout = Layout(cast(Kind, kind), tuple(devices))
    pieces = layout.device_count * accumulate
    if batch_size % pieces:
        near = [n for n in (batch_size // pieces * pieces, -(-batch_size // pieces) * pieces) if n]
        parts = f"{layout.device_count} devices" + (f" x {accumulate}" if accumulate > 1 else "")
        raise InputError(
            f"a batch of {batch_size} images does not divide over {parts}: "
            f"take {' or '.join(map(str, near))}"
        )
    return layout


def evaluation_layout(kind: str | None) -> Layout:
    """The layout of an evaluation: over all devices of this process, unless told `none`."""
    alone = kind == "none" or jax.local_device_count() == 1
    return ONE_DEVICE if alone else Layout("sharding")


def is_first_process() -> bool:
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


def _local(*spec: str) -> NamedSharding:
    return _sharding(jax.local_devices(), PartitionSpec(*spec))


def _copies(each: np.ndarray, tree: Tree) -> Tree:
    return jax.pmap(lambda _, tree: tree, in_axes=(0, None))(each, tree)


def _split_by_device(tree: Tree) -> Tree:
    return jax.pmap(lambda tree: tree)(tree)


def _device_numbers(each: np.ndarray) -> Any:
    return jax.pmap(lambda _: jax.lax.axis_index(AXIS), axis_name=AXIS)(each)
