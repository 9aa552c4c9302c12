"""Training images that a function draws batch by batch, and what is checked of any images.

def draw(seed, epoch, first):        # the batches of that epoch, from batch `first` on
    ...
    yield x, y

stream = Stream(draw, batches=100, num_classes=10)
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from l2ljax import gate
from l2ljax.errors import DataError, InputError

Draw = Callable[[int, int, int], Any]
"""(seed, epoch, first) -> an iterable of the epoch's batches (x, y), from batch `first` on."""


class Stream:
    """The batches that a function draws: `draw(seed, epoch, first)` begins at batch `first`.

    For the same (seed, epoch) it must draw the same batches, because a run that was stopped begins
    again inside an epoch. Its batches may be of another size than those of the run, which are cut
    out of them; all have the same size but for the last one of an epoch, which is dropped if it is
    shorter. batches: how many whole ones an epoch has. What is not said of `batches` and
    `num_classes` is found by drawing one epoch. The seed is that of the run, and another one after
    every rollback.
    """

    ndim = 4

    def __init__(
        self,
        draw: Draw,
        *,
        batches: int | None = None,
        num_classes: int | None = None,
        name: str = "train",
    ) -> None:
        self.name, self._draw = name, draw
        self._check_signature()
        self.batches, self.num_classes = batches, num_classes
        batch = next(self._drawn(0, 0, 0), None)
        if batch is None:
            raise DataError(f"{name}: the function of batches drew none in epoch 0")
        x, _ = self._checked(batch, "batch 0 of epoch 0", first=True)
        self.batch_size, self.image_shape, self.dtype = len(x), x.shape[1:], x.dtype
        if batches is None or num_classes is None:
            self._measure()
        gate.check_count(f"{name}: batches", self.batches)
        self._check_begin()
        self._head = x[:0], np.empty(0, np.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, C], N being the images of an epoch."""
        return len(self), *self.image_shape

    @property
    def nbytes(self) -> int:
        """What an epoch of images would take."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return (self.batches or 0) * self.batch_size

    def __getitem__(self, index: slice) -> np.ndarray:
        return self.head(index)[0]

    def head(self, index: slice) -> tuple[np.ndarray, np.ndarray]:
        """The first images of epoch 0 under seed 0, and their labels: a stream knows no others."""
        if not isinstance(index, slice) or index.start or index.step not in (None, 1):
            raise DataError(f"{self.name}: a stream of batches has first images x[:n], no x[i]")
        n = len(range(len(self))[index])
        if n > len(self._head[1]):
            self._head = next(self.read(0, 0, 0, [n]))
        return self._head[0][:n], self._head[1][:n]

    def read(
        self, seed: int, epoch: int, begin: int, sizes: list[int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """From the epoch's image `begin` on: so many images and labels, then so many, and so on."""
        number, at = divmod(begin, self.batch_size)
        drawn = self._drawn(seed, epoch, number)
        x, y = np.empty((0, *self.image_shape), self.dtype), np.empty(0, np.int32)
        for size in sizes:
            images, labels = np.empty((size, *self.image_shape), self.dtype), np.empty(size, "i4")
            done = 0
            while done < size:
                if at >= len(y):
                    at -= len(y)
                    x, y = self._next(drawn, number, epoch)
                    number += 1
                n = min(size - done, len(y) - at)
                images[done : done + n], labels[done : done + n] = x[at : at + n], y[at : at + n]
                done, at = done + n, at + n
            yield images, labels

    def _next(self, drawn: Iterator[Any], number: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        batch = next(drawn, None)
        if batch is None:
            raise DataError(
                f"{self.name}: epoch {epoch} ended after {number} batches of {self.batches}"
            )
        return self._checked(batch, f"batch {number} of epoch {epoch}")

    def _check_signature(self) -> None:
        if not callable(self._draw):
            raise DataError(
                f"{self.name} is a {type(self._draw).__name__}, which can be read only once: give a"
                " function (seed, epoch, first) that returns the iterator of that epoch from batch "
                "`first` on, because a stopped run begins again inside an epoch"
            )
        try:
            inspect.signature(self._draw).bind(0, 0, 0)
        except TypeError as error:
            raise DataError(
                f"{self.name}: the function of batches must take (seed, epoch, first): {error}"
            ) from None

    def _drawn(self, seed: int, epoch: int, first: int) -> Iterator[Any]:
        batches = self._draw(seed, epoch, first)
        try:
            return iter(batches)
        except TypeError:
            kind = type(batches).__name__
            raise DataError(
                f"{self.name}: the function of batches returned a {kind}, no iterator of (x, y)"
            ) from None

    def _checked(
        self, batch: Any, where: str, *, first: bool = False, last: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The batch as arrays; of the first one anything that can be trained on is right."""
        where = f"{self.name}: {where}"
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(f"{where} is a {type(batch).__name__}: a batch is a pair (x, y)")
        x, y = map(np.asarray, batch)
        x, y = checked_arrays(x, y, (f"{where}: x", f"{where}: y"), whole=first)
        if not first and (x.shape[1:] != self.image_shape or x.dtype != self.dtype):
            raise DataError(
                f"{where} has images {x.dtype} {list(x.shape[1:])}, the first one had {self.dtype} "
                f"{list(self.image_shape)}"
            )
        if not first and not last and len(x) != self.batch_size:
            raise DataError(f"{where} has {len(x)} images, the first one had {self.batch_size}")
        if self.num_classes is not None and y.max() >= self.num_classes:
            raise DataError(f"{where} has the label {y.max()} of {self.num_classes} classes")
        return x, y

    def _measure(self) -> None:
        """Count the whole batches of one epoch, and its classes."""
        count, top, shorter = 0, 0, None
        for number, batch in enumerate(self._drawn(0, 0, 0)):
            if shorter is not None:
                where = f"{self.name}: batch {number - 1} of epoch 0"
                raise DataError(f"{where} has {shorter} images, the first had {self.batch_size}")
            x, y = self._checked(batch, f"batch {number} of epoch 0", last=True)
            top = max(top, int(y.max()))
            shorter = None if len(x) == self.batch_size else len(x)
            count += shorter is None
        self.batches = count if self.batches is None else self.batches
        self.num_classes = top + 1 if self.num_classes is None else self.num_classes

    def _check_begin(self) -> None:
        """Batch 1 must be the same, whether the epoch was begun at batch 0 or at batch 1."""
        if (self.batches or 0) < 2:
            return
        second = list(self.read(0, 0, 0, [self.batch_size] * 2))[1]
        begun = next(self.read(0, 0, self.batch_size, [self.batch_size]))
        if not all(np.array_equal(a, b) for a, b in zip(second, begun, strict=True)):
            raise DataError(
                f"{self.name}: batch 1 of draw(0, 0, 0) is not the first of draw(0, 0, 1): the "
                "batches must depend on seed and epoch alone, and begin at batch `first`"
            )


class StreamLabels:
    """The labels of a stream's first images, as `y[:n]`; the others are known batch by batch."""

    dtype = np.dtype(np.int32)

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, index: slice) -> np.ndarray:
        return self.stream.head(index)[1]


def checked_arrays(
    x: Any, y: Any, names: tuple[str, str], *, whole: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Images as uint8 or float32 [N, H, W, C], labels as int32; names are those of x and y."""
    with data_errors():
        x = checked_images(x, names[0], whole=whole)
        return x, checked_labels(y, len(x), names[1])


@contextmanager
def data_errors() -> Iterator[None]:
    """What the gate says of data is a DataError."""
    try:
        yield
    except DataError:
        raise
    except InputError as error:
        raise DataError(str(error)) from error


def checked_images(x: Any, name: str, *, whole: bool = True) -> np.ndarray:
    """x as uint8 or float32 [N, H, W, C]; a missing channel of grey images is added.

    Of a `whole` set bytes that do not exceed 1 are refused; a few images may be as dark as that.
    """
    x = x[..., None] if getattr(x, "ndim", 0) == 3 else x
    gate.check_images(x, name)
    if gate.looks_nchw(x.shape):
        raise InputError(
            f"{name} is {list(x.shape)}, which looks like NCHW: store NHWC, x.transpose(0, 2, 3, 1)"
        )
    if whole and x.dtype == np.uint8 and x.max() == 1:
        raise InputError(f"{name} is uint8 and reaches to 1, of 255: store floats in [0, 1]")
    return np.ascontiguousarray(x, np.uint8 if x.dtype == np.uint8 else np.float32)


def checked_labels(y: Any, n: int, name: str) -> np.ndarray:
    """y as n int32 class indices from 0 on."""
    gate.labels(y, n, name=name)
    return np.asarray(y).astype(np.int32)
