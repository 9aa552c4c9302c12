"""The official layouts as bytes -> arrays: CIFAR binary, MNIST idx, SVHN mat; and the digits.

CIFAR stores an image as three planes (1024 red, 1024 green, 1024 blue), SVHN as [H, W, C, N] with
the digit 0 labelled 10. A reader gets the files by their official names and checks what a file
without a checksum lets one check: sizes, counts, label ranges.
"""

import io
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from l2ljax.data.dataset import Arrays
from l2ljax.errors import DataError

DIGITS_SPLIT_SEED = 0
DIGITS_TEST = 500


class File(NamedTuple):
    """The bytes of one official file, and where they were found, for messages."""

    where: str
    data: bytes


Files = Mapping[str, File]


def checked_labels(where: str, y: np.ndarray, low: int, high: int) -> np.ndarray:
    """The labels as int32, or an error naming the file if one is outside low..high."""
    if y.size and not low <= int(y.min()) <= int(y.max()) <= high:
        raise DataError(
            f"{where}: labels must be {low} to {high}, found {y.min()} to {y.max()}: damaged file?"
        )
    return y.astype(np.int32)


def read_cifar(
    files: Files, train: Sequence[str], test: Sequence[str], label_bytes: int, num_classes: int
) -> Arrays:
    """Records of `label_bytes` labels (the last is the fine one) and 3072 bytes of planes."""
    length = label_bytes + 3072

    def read(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for name in names:
            where, data = files[name]
            if not data or len(data) % length:
                raise DataError(
                    f"{where}: expected whole records of {length} bytes, found {len(data)} bytes"
                    f" ({len(data) / length:.2f} records): truncated?"
                )
            parts.append(np.frombuffer(data, np.uint8).reshape(-1, length))
            checked_labels(where, parts[-1][:, label_bytes - 1], 0, num_classes - 1)
        records = np.concatenate(parts)
        planes = records[:, label_bytes:].reshape(-1, 3, 32, 32)
        return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, label_bytes - 1]

    (x_train, y_train), (x_test, y_test) = read(train), read(test)
    return Arrays(x_train, y_train.astype(np.int32), x_test, y_test.astype(np.int32))


def read_cifar10(files: Files) -> Arrays:
    """Five training batches and one of test images, one label byte."""
    train = [f"data_batch_{i}.bin" for i in range(1, 6)]
    return read_cifar(files, train, ["test_batch.bin"], label_bytes=1, num_classes=10)


def read_cifar100(files: Files) -> Arrays:
    """Two label bytes, coarse then fine; the fine one counts."""
    return read_cifar(files, ["train.bin"], ["test.bin"], label_bytes=2, num_classes=100)


def read_idx(file: File, ndim: int) -> np.ndarray:
    """An idx file: magic 0x0000_08_ndim, ndim big-endian sizes, then unsigned bytes."""
    where, data = file
    head = 4 * (1 + ndim)
    if len(data) < head or data[:4] != bytes([0, 0, 8, ndim]):
        raise DataError(
            f"{where}: expected an idx file that begins 00 00 08 {ndim:02d}, found"
            f" {len(data)} bytes that begin {data[:4].hex(' ')}"
        )
    shape = struct.unpack(f">{ndim}I", data[4:head])
    expected = head + math.prod(shape)
    if len(data) != expected:
        raise DataError(
            f"{where}: expected {expected} bytes for {shape[0]} items, found {len(data)}:"
            " truncated?"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def read_mnist(files: Files) -> Arrays:
    """Four idx files; MNIST and Fashion-MNIST share the names and the layout."""
    parts = []
    for split in ("train", "t10k"):
        images, labels = files[f"{split}-images-idx3-ubyte"], files[f"{split}-labels-idx1-ubyte"]
        x, y = read_idx(images, 3)[..., None].copy(), read_idx(labels, 1)
        if x.shape[1:] != (28, 28, 1):
            raise DataError(f"{images.where}: expected 28x28 images, found {x.shape[1:3]}")
        if len(x) != len(y):
            raise DataError(f"{labels.where}: {len(y)} labels for {len(x)} images")
        parts += [x, checked_labels(labels.where, y, 0, 9)]
    return Arrays(*parts)


def read_svhn(files: Files) -> Arrays:
    """Cropped digits: X [32, 32, 3, N] and y [N, 1], where the digit 0 is labelled 10."""
    from scipy.io import loadmat, matlab

    parts = []
    for name in ("train_32x32.mat", "test_32x32.mat"):
        where, data = files[name]
        try:
            content = loadmat(io.BytesIO(data), variable_names=["X", "y"])
        except (matlab.MatReadError, ValueError, TypeError, OSError, zlib.error) as error:
            raise DataError(f"{where}: not a readable .mat file: {error}") from error
        if not {"X", "y"} <= content.keys():
            raise DataError(f"{where}: expected the variables X and y, found {sorted(content)}")
        x, y = content["X"], content["y"].reshape(-1)
        if x.dtype != np.uint8 or x.shape != (32, 32, 3, len(y)):
            raise DataError(
                f"{where}: expected X of uint8 [32, 32, 3, {len(y)}], found {x.dtype} {x.shape}"
            )
        x = np.ascontiguousarray(np.moveaxis(x, -1, 0))
        parts += [x, checked_labels(where, y, 1, 10) % 10]
    return Arrays(*parts)


def read_digits(files: Files) -> Arrays:
    """scikit-learn's 1,797 digits of 8x8 and 17 grey levels, in one fixed shuffled order."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = np.round(x.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    # RandomState's stream is frozen by NumPy; default_rng's is not.
    order = np.random.RandomState(DIGITS_SPLIT_SEED).permutation(len(x))
    x, y = x[order], np.asarray(y)[order].astype(np.int32)
    return Arrays(x[:-DIGITS_TEST], y[:-DIGITS_TEST], x[-DIGITS_TEST:], y[-DIGITS_TEST:])
