"""One table of data sets, and the readers of their official files.

Everything that is true of one set only stands in its row. MNIST and Fashion-MNIST have the same
file names, so each has folders of its own. Constants for normalisation are those of the Fast-BAT
code (CIFAR, SVHN) and the usual ones for the two MNISTs; without constants they are computed from
the training split.

CIFAR stores an image as three planes (1024 red, 1024 green, 1024 blue), SVHN as [H, W, C, N] with
the digit 0 labelled 10. A reader gets the files by their official names and checks what a file
without a checksum lets one check: sizes, counts, label ranges.
"""

import importlib.util
import io
import math
import pathlib
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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


def checked_range(where: str, y: np.ndarray, low: int, high: int) -> np.ndarray:
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
            checked_range(where, parts[-1][:, label_bytes - 1], 0, num_classes - 1)
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
        parts += [x, checked_range(labels.where, y, 0, 9)]
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
        parts += [x, checked_range(where, y, 1, 10) % 10]
    return Arrays(*parts)


def read_digits(files: Files) -> Arrays:
    """scikit-learn's 1,797 digits of 8x8 and 17 grey levels, in one fixed shuffled order."""
    # The file that scikit-learn's `load_digits` reads; its import would take two seconds more.
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("the digits come with scikit-learn, which is not installed")
    table = np.loadtxt(
        pathlib.Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=","
    )
    x, y = table[:, :-1], table[:, -1]
    x = np.round(x.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    # RandomState's stream is frozen by NumPy; default_rng's is not.
    order = np.random.RandomState(DIGITS_SPLIT_SEED).permutation(len(x))
    x, y = x[order], np.asarray(y)[order].astype(np.int32)
    return Arrays(x[:-DIGITS_TEST], y[:-DIGITS_TEST], x[-DIGITS_TEST:], y[-DIGITS_TEST:])


class Row(NamedTuple):
    """A data set: its shape and names, its official files, and how they are read.

    archives: official archive -> the files read from it; folders: where these lie unpacked,
    relative to data_dir ("." is data_dir); counts: images in the official train and test sets.
    """

    read: Callable[[Files], Arrays]
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    counts: tuple[int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: str = "none"
    val_size: int | None = None
    tfds: str = ""
    archives: dict[str, tuple[str, ...]] = {}
    folders: tuple[str, ...] = ()


TEN = tuple("0123456789")
IDX = {
    f"{name}.gz": (name,)
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
}
FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus"
    " butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch"
    " crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo"
    " keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse"
    " mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy"
    " porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper"
    " snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television"
    " tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
).split()

DATASETS: dict[str, Row | Callable[..., Any]] = {
    "digits": Row(read_digits, (8, 8, 1), TEN, (1297, 500), val_size=200),
    "mnist": Row(
        read_mnist,
        (28, 28, 1),
        TEN,
        (60_000, 10_000),
        mean=(0.1307,),
        std=(0.3081,),
        tfds="mnist",
        archives=IDX,
        folders=("mnist", "MNIST/raw", "."),
    ),
    "fashion_mnist": Row(
        read_mnist,
        (28, 28, 1),
        tuple(FASHION),
        (60_000, 10_000),
        mean=(0.2860,),
        std=(0.3530,),
        tfds="fashion_mnist",
        archives=IDX,
        folders=("fashion_mnist", "FashionMNIST/raw", "."),
    ),
    "cifar10": Row(
        read_cifar10,
        (32, 32, 3),
        tuple(CIFAR10),
        (50_000, 10_000),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        augment="crop_flip",
        tfds="cifar10",
        archives={
            "cifar-10-binary.tar.gz": (
                *(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
                "cifar-10-batches-bin/test_batch.bin",
            )
        },
        folders=("cifar10", "."),
    ),
    "cifar100": Row(
        read_cifar100,
        (32, 32, 3),
        tuple(CIFAR100),
        (50_000, 10_000),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        augment="crop_flip",
        tfds="cifar100",
        archives={
            "cifar-100-binary.tar.gz": (
                "cifar-100-binary/train.bin",
                "cifar-100-binary/test.bin",
            )
        },
        folders=("cifar100", "."),
    ),
    "svhn": Row(
        read_svhn,
        (32, 32, 3),
        TEN,
        (73_257, 26_032),
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1201, 0.1231, 0.1052),
        tfds="svhn_cropped",
        archives={name: (name,) for name in ("train_32x32.mat", "test_32x32.mat")},
        folders=("svhn", "."),
    ),
}
"""By name a row, or a function of a user's own: () -> whatever `from_user` takes."""
