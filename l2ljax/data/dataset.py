"""What a data set is: three splits, and what a model must know about them.

The validation split is the LAST part of the training images by index (as in the Fast-BAT code), so
nothing is ever chosen on the test set. That part must not depend on the labels: official sets come
shuffled, and all others are put into an order of `interleave` first.

Training images may be `Images` or a `Stream`, which are read when they are needed. Validation and
test images are read at once, unless they take more than WHOLE bytes.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from l2ljax.data.sources import Images, Pixels, Stream, StreamLabels
from l2ljax.errors import DataError

SPLIT_SEED = 0
"""Of the one order of a user's own images: the same in every run, whatever its seed."""

WHOLE = 2**30
"""Bytes up to which validation and test images are read into memory as a whole."""

SAMPLE = 1000
"""Training images, evenly spread, on which mean and std are estimated where they lie on a disk."""

Part = tuple[Any, Any]
"""Images and int32 labels of one split."""


class Arrays(NamedTuple):
    """Images [N, H, W, C] (uint8, or float32 in [0, 1]) and int32 labels as the source has them."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Dataset(NamedTuple):
    """Three splits; mean and std are per channel on the [0, 1] scale.

    x_val and x_test are arrays, or `Images` where they take more than WHOLE bytes.
    augment: a name in AUGMENTS, or a function (key, image) -> image.
    """

    name: str
    x_train: Pixels
    y_train: np.ndarray | StreamLabels
    x_val: Any
    y_val: np.ndarray
    x_test: Any
    y_test: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str | Callable[..., Any]


def make_dataset(
    name: str,
    train: Part,
    test: Part,
    *,
    class_names: Sequence[str],
    val: Part | None = None,
    val_size: int | None = None,
    train_size: int | None = None,
    default_val_size: int | None = None,
    mixed: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    augment: str | Callable[..., Any] = "none",
) -> Dataset:
    """The three splits of that many images, from whatever was read.

    A `val` that the set has itself is the validation split; otherwise it is cut off the training
    images. `mixed` says that the training images lie in an order that has nothing to do with the
    labels; all others are interleaved. Without mean or std both are computed on training images.
    """
    order = None if mixed or isinstance(train[0], Stream) else interleave(train[1])
    at = len(train[1])
    if val is not None:
        val = _own_validation(name, val, val_size)
    elif isinstance(train[0], Stream):
        val = _none_of(name, train[0], val_size)
    else:
        at = cut(name, at, val_size, default_val_size)
        val = _rows(train, order, at, len(train[1]))
    train = _kept(name, train, order, at, train_size)
    check_classes(name, train[1], val[1], class_names)
    if mean is None or std is None:
        mean, std = moments(train[0])
    return Dataset(
        name,
        *train,
        *_in_memory(val),
        *_in_memory(test),
        len(class_names),
        tuple(class_names),
        tuple(mean),
        tuple(std),
        augment,
    )


def cut(name: str, n: int, val_size: int | None, default: int | None) -> int:
    """The index where validation begins: n - val_size, by default n - min(1000, 10 %)."""
    if val_size is not None and not isinstance(val_size, (int, np.integer)):
        raise DataError(f"{name}: val_size={val_size!r} must be a whole number of images")
    if val_size is None:
        val_size = default or max(1, min(1000, n // 10))
    if not 0 <= val_size < n:
        raise DataError(
            f"{name}: val_size={val_size} must be between 0 and {n - 1}: validation is taken from"
            f" the {n} training images, and the test set is never used to choose anything"
        )
    return n - val_size


def interleave(y: np.ndarray) -> np.ndarray:
    """An order of the images in which every first and every last part has its share of each class.

    Within a class the images are shuffled; the j-th of n then stands at (j + 1/2) / n of the whole,
    so that of the first or the last m of all N images about m n / N come from it.
    """
    # RandomState's stream is frozen by NumPy; default_rng's is not.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(y))
    place = np.empty(len(y))
    for label in np.unique(y):
        of_class = np.flatnonzero(y[order] == label)
        place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    return order[np.argsort(place, kind="stable")]


def check_classes(name: str, y_train: Any, y_val: Any, class_names: Sequence[str]) -> None:
    """A DataError if training has one class alone; a warning for each split that lacks classes."""
    if isinstance(y_train, StreamLabels):
        return  # which classes a stream has is known after an epoch
    if len(found := np.unique(y_train)) < 2:
        raise DataError(
            f"{name}: all {len(y_train)} training images are of the class {class_names[found[0]]}:"
            " there is nothing to tell apart"
        )
    for split, y in (("training", y_train), ("validation", y_val)):
        absent = np.setdiff1d(np.arange(len(class_names)), y)
        if len(y) and len(absent):
            few = ", ".join(str(class_names[i]) for i in absent[:5]) + ", ..." * (len(absent) > 5)
            warnings.warn(
                f"{name}: none of the {len(y)} {split} images is of the class {few}"
                f" ({len(absent)} of {len(class_names)} classes)",
                stacklevel=4,
            )


def moments(x: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, on the [0, 1] scale.

    Of an array all images count, of `Images` SAMPLE of them, of a `Stream` the first SAMPLE.
    """
    if isinstance(x, Stream):
        x = x[:SAMPLE]
    elif isinstance(x, Images):
        x = x[np.unique(np.linspace(0, len(x) - 1, SAMPLE).astype(int))]
    unit = 255.0 if x.dtype == np.uint8 else 1.0
    channels = [x[..., c] for c in range(x.shape[-1])]
    mean = tuple(float(c.mean(dtype=np.float64)) / unit for c in channels)
    # A constant channel is centred and left unscaled: models divide by std.
    std = tuple(float(c.std(dtype=np.float64)) / unit or 1.0 for c in channels)
    return mean, std


def _rows(part: Part, order: np.ndarray | None, begin: int, end: int) -> Part:
    """Those rows of a split in that order, or in its own; `Images` stay unread."""
    x, y = part
    rows: Any = slice(begin, end) if order is None else order[begin:end]
    return x.select(rows) if isinstance(x, Images) else x[rows], y[rows]


def _kept(name: str, train: Part, order: Any, at: int, train_size: int | None) -> Part:
    """The first `train_size` of the training images that stand before `at`."""
    size = at if train_size is None else train_size
    if not isinstance(size, (int, np.integer)):
        raise DataError(f"{name}: train_size={size!r} must be a whole number of images")
    if not 0 < size <= at:
        raise DataError(f"{name}: train_size must lie in 1 .. {at}, not {train_size}")
    if not isinstance(train[0], Stream):
        return _rows(train, order, 0, size)
    if size < at:
        raise DataError(f"{name}: train_size={size} cannot be taken of a stream of batches")
    return train


def _none_of(name: str, stream: Stream, val_size: int | None) -> Part:
    if val_size:
        raise DataError(f"{name}: val_size={val_size} cannot be cut off a stream: give `val` too")
    return np.empty((0, *stream.image_shape), stream.dtype), np.empty(0, np.int32)


def _own_validation(name: str, val: Part, val_size: int | None) -> Part:
    """The validation images that a set has itself, or the first `val_size` of them."""
    n = len(val[1])
    size = n if val_size is None else val_size
    if not isinstance(size, (int, np.integer)) or not 0 <= size <= n:
        raise DataError(f"{name}: val_size={val_size} must be between 0 and {n}, its own split")
    return _rows(val, interleave(val[1]), 0, size)


def _in_memory(part: Part) -> Part:
    x, y = part
    return (x[:] if isinstance(x, Images) and x.nbytes <= WHOLE else x), y
