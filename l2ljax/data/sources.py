"""Training images that need not fit into memory: items that are decoded on demand.

    x, y = as_source((images, labels))             # arrays
    x, y = as_source(items)                        # len(items) and items[i] -> (image, label)
    x, y = as_source(Stream(draw, batches=100, num_classes=10))   # draw(seed, epoch, first)

x is a NumPy array, `Images` or a `Stream`. All three have shape, dtype, nbytes, a length, and give
their first images as `x[:n]`; an array and `Images` give any rows. y are the labels.
"""

import copy
import operator
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np

from l2ljax.data.stream import (
    Draw,
    Stream,
    StreamLabels,
    checked_arrays,
    checked_labels,
    data_errors,
)
from l2ljax.errors import DataError


class Images:
    """Images that are read when they are asked for; `x[rows]` is then a plain array of these alone.

    read: row -> image [H, W, C], called from `threads` threads at once. where: row -> how a line
    about that image begins. The images must all have this shape and dtype; `hint` says what to do
    where one has not.
    """

    ndim = 4
    checks_itself = True
    """For `gate.check_images`: every image is checked when it is read."""

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        where: Callable[[int], str],
        shape: tuple[int, ...],
        dtype: Any = np.uint8,
        *,
        threads: int | None = None,
        hint: str = "all must be alike",
    ) -> None:
        self.read, self.where, self.dtype, self.hint = read, where, np.dtype(dtype), hint
        self.threads = threads or os.cpu_count() or 1
        self.image_shape, self.rows = tuple(shape[1:]), np.arange(shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, C]."""
        return len(self.rows), *self.image_shape

    @property
    def nbytes(self) -> int:
        """What the array of all images would take."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Any) -> "Images":
        """These images, in this order, none of them read yet."""
        chosen = copy.copy(self)
        chosen.rows = self.rows[rows]
        return chosen

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.asarray(self.rows[index])
        out = np.empty((rows.size, *self.image_shape), self.dtype)

        def fill(place: int) -> None:
            row = int(rows.flat[place])
            out[place] = self.alike(self.read(row), row)

        _each(fill, rows.size, self.threads)
        return out.reshape(*rows.shape, *self.image_shape)

    def alike(self, image: np.ndarray, row: int) -> np.ndarray:
        """The image, or an error that names it, where shape or dtype are of another kind."""
        if image.shape != self.image_shape or image.dtype != self.dtype:
            raise DataError(
                f"{self.where(row)} is an image {image.dtype} {list(image.shape)}, the first one is"
                f" {self.dtype} {list(self.image_shape)}: {self.hint}"
            )
        return image

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


Pixels = np.ndarray | Images | Stream
"""What a data set may have as its training images."""


def as_source(thing: Any, name: str = "train") -> tuple[Pixels, np.ndarray | StreamLabels]:
    """Images and labels of whatever a user gives, checked; `name` begins every line about it.

    An item source is anything with a length and `[i] -> (image, label)`, the image being uint8 or
    floats in [0, 1], [H, W, C] or [H, W]. It may have an attribute `labels`, and `threads`, the
    number of threads it can be read from at once. Without `labels` all items are read once before
    training, to know them.
    """
    if isinstance(thing, tuple) and len(thing) == 2 and hasattr(thing[0], "shape"):
        x, y = thing
        if not isinstance(x, Images):
            return checked_arrays(x, y, (f"{name}: x", f"{name}: y"))
        with data_errors():
            return x, checked_labels(y, len(x), f"{name}: y")
    if isinstance(thing, Stream):
        return thing, StreamLabels(thing)
    if hasattr(thing, "__len__") and hasattr(thing, "__getitem__"):
        if isinstance(thing, (dict, str)):
            raise DataError(f"{name} is a {type(thing).__name__}, and no source of images: {GIVE}")
        return _items(thing, name)
    if callable(thing) or hasattr(thing, "__next__"):
        stream = Stream(cast(Draw, thing), name=name)
        return stream, StreamLabels(stream)
    raise DataError(f"{name} is a {type(thing).__name__}, and no source of images: {GIVE}")


GIVE = (
    "give arrays (x, y), something with a length and [i] -> (image, label), or a function (seed, "
    "epoch, first) that returns an iterator of batches (x, y)"
)


def _items(source: Any, name: str) -> tuple[Images, np.ndarray]:
    """An item source as images and labels; the first item says shape and dtype."""
    n, threads = len(source), getattr(source, "threads", None)
    if not n:
        raise DataError(f"{name} is empty")

    def where(i: int) -> str:
        return f"{name}[{i}]"

    def read(i: int) -> tuple[np.ndarray, int]:
        item = source[i]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"{where(i)} is a {type(item).__name__}: an item is (image, label)")
        try:
            label = operator.index(item[1])
        except TypeError:
            raise DataError(
                f"{where(i)} has the label {item[1]!r}: class indices are whole numbers"
            ) from None
        pixels, names = np.asarray(item[0])[None], (where(i), f"the label of {where(i)}")
        return checked_arrays(pixels, np.array([label]), names, whole=False)[0][0], label

    first, _ = read(0)
    images = Images(lambda i: read(i)[0], where, (n, *first.shape), first.dtype, threads=threads)
    labels = getattr(source, "labels", None)
    if labels is None:
        labels = np.empty(n, np.int32)

        def fill(i: int) -> None:
            image, labels[i] = read(i)
            images.alike(image, i)

        _each(fill, n, images.threads)
    with data_errors():
        return images, checked_labels(np.asarray(labels), n, f"labels of {name}")


BLOCK = 1000
"""Items that are handed to the threads at once."""


def _each(work: Callable[[int], None], n: int, threads: int) -> None:
    """work(0), ..., work(n - 1), in that many threads; the first error ends it."""
    if min(n, threads) <= 1:
        for i in range(n):
            work(i)
        return
    with ThreadPoolExecutor(threads) as pool:
        for begin in range(0, n, BLOCK):
            for _ in pool.map(work, range(begin, min(begin + BLOCK, n))):
                pass
