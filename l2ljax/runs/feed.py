"""The training set where the steps find it: on the devices as a whole, or brought chunk by chunk.

    feed = Feed(game, data, seed, chunk=50, on_device=True)
    for n, arguments in feed.epoch(epoch, rollbacks, step):
        state, metrics = game.program(n, state, *arguments)(state, *arguments)

A chunk is what one call computes: `chunk` steps, and fewer where the epoch ends. In both places the
same rows reach the same step, so that where the data lie changes no bit of a run.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from l2ljax.runs.game import Game
from l2ljax.data import Dataset, epoch_order

SHARE = 0.5
"""Of a device's memory: data that take more are brought chunk by chunk."""


class Feed:
    """The chunks of an epoch, one after another, with their images on the devices."""

    def __init__(
        self, game: Game, data: Dataset, seed: int, *, chunk: int = 1, on_device: bool = True
    ) -> None:
        self.game, self.data, self.seed = game, data, seed
        self.lengths = even(game.steps_per_epoch, chunk)
        self.rng = game.layout.replicate(jax.random.key(seed))
        self.whole = game.layout.replicate((data.x_train, data.y_train)) if on_device else None

    def epoch(
        self, epoch: int, rollbacks: int, step: int | None = None
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """From that step on: how many steps a chunk has, and what its program takes."""
        steps, layout = self.game.steps_per_epoch, self.game.layout
        step = epoch * steps if step is None else step
        order = epoch_order(self.seed, epoch, rollbacks, len(self.data.x_train))
        order = layout.rows_of_devices(order, part_size=self.game.part_size)
        lengths = list(cuts(step - epoch * steps, steps, self.lengths))
        if self.whole is not None:
            placed = layout.put_batch(order)
            first = layout.replicate(np.int32(epoch * steps))
            for _, n in lengths:
                yield n, (*self.whole, placed, first, self.rng)
            return
        # One chunk is on its way while the devices compute the one before.
        with ThreadPoolExecutor(1) as thread:
            coming = [thread.submit(self._bring, order, epoch, *cut) for cut in lengths[:1]]
            for cut, following in zip(lengths, [*lengths[1:], None], strict=True):
                arguments = coming.pop().result()
                if following is not None:
                    coming.append(thread.submit(self._bring, order, epoch, *following))
                yield cut[1], arguments

    def _bring(self, order: np.ndarray, epoch: int, begin: int, n: int) -> tuple[Any, ...]:
        """The images of n steps from the epoch's step `begin` on."""
        layout, rows = self.game.layout, self.game.rows
        taken = order[..., begin * rows : (begin + n) * rows]
        images = layout.put_batch((self.data.x_train[taken], self.data.y_train[taken]))
        first = layout.replicate(np.int32(epoch * self.game.steps_per_epoch + begin))
        return *images, layout.replicate(np.arange(n * rows, dtype=np.int32)), first, self.rng


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
    """Whether the training images leave a device enough of its memory."""
    memory = jax.local_devices()[0].memory_stats() or {}
    limit = memory.get("bytes_limit")
    return limit is None or data.x_train.nbytes < SHARE * limit
