"""What a data set is: whole arrays in three splits, and what a model must know about them.

The validation split is the LAST part of the training images by index (as in the Fast-BAT code), so
nothing is ever chosen on the test set. That part must not depend on the labels: official sets come
shuffled, and a user's own arrays are put into an order of `interleave` first.
"""

from typing import NamedTuple

import numpy as np

from l2ljax.errors import DataError

SPLIT_SEED = 0
"""Of the one order of a user's own arrays: the same in every run, whatever its seed."""


class Arrays(NamedTuple):
    """Images [N, H, W, C] (uint8, or float32 in [0, 1]) and int32 labels as the source has them."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Dataset(NamedTuple):
    """Three splits in memory; mean and std are per channel on the [0, 1] scale."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str


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


def moments(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, on the [0, 1] scale."""
    unit = 255.0 if x.dtype == np.uint8 else 1.0
    channels = [x[..., c] for c in range(x.shape[-1])]
    mean = tuple(float(c.mean(dtype=np.float64)) / unit for c in channels)
    # A constant channel is centred and left unscaled: models divide by std.
    std = tuple(float(c.std(dtype=np.float64)) / unit or 1.0 for c in channels)
    return mean, std
