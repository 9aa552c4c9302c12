"""The training set where the steps find it: on the devices as a whole, or brought chunk by chunk.

    feed = Feed(data, seed, layout=game.layout, batch_size=128, chunk=50)
    for n, arguments in feed.epoch(epoch, rollbacks, step):
        state, metrics = game.program(n, state, *arguments)(state, *arguments)

A chunk is what one call computes: `chunk` steps, and fewer where the epoch ends. In both places the
same rows reach the same step, so that where the data lie changes no bit of a run.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from l2ljax.data import Dataset, Stream, epoch_order
from l2ljax.data.batches import flat
from l2ljax.errors import InputError
from l2ljax.parallel import Layout
from l2ljax.types import Array

SHARE = 0.5
"""Of a device's memory: data that take more are brought chunk by chunk."""

AHEAD = 2
"""Chunks that are read and on their way while the devices compute another one."""

CHUNK_BYTES = 2**27
"""Images of a chunk that is read from a disk or a stream: fewer steps a chunk if they take more."""


class Chunk(NamedTuple):
    """What the program of n steps takes after the state.

    x has images as flat rows of pixels; order[0] is the row, among x and y, of the first image of
    step `first`.
    """

    x: Array
    y: Array
    order: Array
    first: Array
    rng: Array


class Feed:
    """The chunks of an epoch, one after another, with their images on the devices.

    part_size: the images of a part of the batch on all devices, where a batch is accumulated from
    several parts. on_device: whether the whole training set is put there; if not said, an array is
    where it fits, and what is read from a disk or a stream never is.
    """

    def __init__(
        self,
        data: Dataset,
        seed: int,
        *,
        layout: Layout,
        batch_size: int,
        part_size: int | None = None,
        chunk: int = 1,
        on_device: bool | None = None,
    ) -> None:
        self.data, self.seed, self.layout, self.batch_size = data, seed, layout, batch_size
        self.part_size = part_size or batch_size
        self.rows = layout.rows_per_call(batch_size)
        self.steps_per_epoch = len(data.x_train) // batch_size
        if not self.steps_per_epoch:
            raise InputError(f"{data.name}: an epoch has no whole batch of {batch_size} images")
        x = data.x_train
        if not isinstance(x, np.ndarray):
            of_step = batch_size * x.nbytes // len(x)
            chunk = min(chunk, max(1, CHUNK_BYTES // of_step))
        self.chunk = even(self.steps_per_epoch, chunk)
        self.rng = layout.replicate(jax.random.key(seed))
        self.whole = None
        if fits(data) if on_device is None else on_device:
            if isinstance(x, Stream):
                raise InputError(f"{data.name}: a stream of batches cannot lie on the device")
            self.whole = layout.replicate((flat(x[:]), data.y_train))

    def epoch(
        self, epoch: int, rollbacks: int, step: int | None = None
    ) -> Iterator[tuple[int, Chunk]]:
        """From that step on: how many steps a chunk has, and what its program takes."""
        begin = 0 if step is None else step - epoch * self.steps_per_epoch
        parts = list(cuts(begin, self.steps_per_epoch, self.chunk))
        order = self._order(epoch, rollbacks)
        if self.whole is not None:
            placed, first = self.layout.put_batch(order), self._first(epoch, 0)
            for _, n in parts:
                yield n, Chunk(*self.whole, order=placed, first=first, rng=self.rng)
            return
        read = self._streamed if isinstance(self.data.x_train, Stream) else self._picked
        yield from ahead(self._chunks(read(order, epoch, rollbacks, parts), epoch, parts))

    def _order(self, epoch: int, rollbacks: int) -> np.ndarray:
        """Of every image of the epoch, in the order of the steps, its row: what each device takes.

        A stream is drawn in the order in which it is played.
        """
        n = len(self.data.x_train)
        streamed = isinstance(self.data.x_train, Stream)
        order = np.arange(n) if streamed else epoch_order(self.seed, epoch, rollbacks, n)
        return self.layout.rows_of_devices(order, part_size=self.part_size)

    def _picked(
        self, order: np.ndarray, epoch: int, rollbacks: int, parts: list[tuple[int, int]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images and labels of every chunk, picked out of the training set."""
        x, y = cast(Any, self.data.x_train), cast(Any, self.data.y_train)
        for begin, n in parts:
            rows = order[..., begin * self.rows : (begin + n) * self.rows]
            yield x[rows], y[rows]

    def _streamed(
        self, order: np.ndarray, epoch: int, rollbacks: int, parts: list[tuple[int, int]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images and labels of every chunk, drawn by the function of batches."""
        stream, size = cast(Stream, self.data.x_train), self.batch_size
        seed = self.seed
        if rollbacks:  # other batches than those that the run has been taken back from
            seed = int(np.random.SeedSequence([seed, rollbacks]).generate_state(1)[0])
        start = parts[0][0] * size if parts else 0
        drawn = stream.read(seed, epoch, start, [n * size for _, n in parts])
        for (begin, n), (x, y) in zip(parts, drawn, strict=True):
            rows = order[..., begin * self.rows : (begin + n) * self.rows] - begin * size
            yield x[rows], y[rows]

    def _chunks(
        self,
        images: Iterator[tuple[np.ndarray, np.ndarray]],
        epoch: int,
        parts: list[tuple[int, int]],
    ) -> Iterator[tuple[int, Chunk]]:
        """Those images on the devices, in their own order."""
        for (begin, n), pair in zip(parts, images, strict=True):
            x, y = self.layout.put_batch((flat(pair[0]), pair[1]))
            order = self.layout.replicate(np.arange(n * self.rows, dtype=np.int32))
            yield n, Chunk(x, y, order, self._first(epoch, begin), self.rng)

    def _first(self, epoch: int, begin: int) -> Any:
        return self.layout.replicate(np.int32(epoch * self.steps_per_epoch + begin))


def ahead(items: Iterator[Any], depth: int = AHEAD) -> Iterator[Any]:
    """The same items, up to `depth` of them made in a thread before they are asked for."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, items, end) for _ in range(depth))
        try:
            while (item := coming.popleft().result()) is not end:
                coming.append(thread.submit(next, items, end))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


def even(steps: int, most: int) -> int:
    """Steps of a chunk: the largest divisor up to `most`, so that one program does, if not small.

    Else `most`: the rest of the epoch is then compiled as a program of its own.
    """
    divisor = max(n for n in range(1, min(most, steps) + 1) if steps % n == 0)
    return divisor if 2 * divisor >= most else min(most, steps)


def cuts(begin: int, steps: int, length: int) -> Iterator[tuple[int, int]]:
    """(first step, how many) from `begin` to the epoch's end; all end at multiples of `length`."""
    while begin < steps:
        end = min((begin // length + 1) * length, steps)
        yield begin, end - begin
        begin = end


def fits(data: Dataset) -> bool:
    """Whether the training images are an array that leaves a device enough of its memory."""
    memory = jax.local_devices()[0].memory_stats() or {}
    limit = memory.get("bytes_limit")
    is_array = isinstance(data.x_train, np.ndarray)
    return is_array and (limit is None or data.x_train.nbytes < SHARE * limit)
