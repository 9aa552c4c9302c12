"""One table of data sets: everything that is true of one of them only stands in its row.

MNIST and Fashion-MNIST have the same file names, so each has folders of its own. Constants for
normalisation are those of the Fast-BAT code (CIFAR, SVHN) and the usual ones for the two MNISTs;
without constants they are computed from the training split.
"""

from collections.abc import Callable
from typing import NamedTuple

from l2ljax.data import formats
from l2ljax.data.dataset import Arrays


class Row(NamedTuple):
    """A data set: its shape and names, its official files, and how they are read.

    archives: official archive -> the files read from it; folders: where these lie unpacked,
    relative to data_dir ("." is data_dir); counts: images in the official train and test sets.
    """

    read: Callable[[formats.Files], Arrays]
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

DATASETS: dict[str, Row] = {
    "digits": Row(formats.read_digits, (8, 8, 1), TEN, (1297, 500), val_size=200),
    "mnist": Row(
        formats.read_mnist,
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
        formats.read_mnist,
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
        formats.read_cifar10,
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
        formats.read_cifar100,
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
        formats.read_svhn,
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
