"""`load`: a name -> three splits, from the first source that has the data.

In this order: a tree that tfds prepared, the unpacked official files, the official archive, a
download. Where a better source is damaged the next one is not tried; the user is told.
"""

import os
import pathlib
import warnings

import numpy as np

from l2ljax.data import official
from l2ljax.data.dataset import Arrays, Dataset, cut, interleave, moments
from l2ljax.data.download import describe, fetch
from l2ljax.data.npz import read_npz
from l2ljax.data.table import DATASETS, Row
from l2ljax.data.tree import find_tree, read_tree
from l2ljax.errors import DataError, nearest


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    val_size: int | None = None,
    train_size: int | None = None,
    download: bool = True,
    progress: bool = True,
) -> Dataset:
    """The data set `name`, a row of DATASETS or npz:PATH.

    The last `val_size` training images are the validation split, by default min(1000, 10 %) of
    them, and for the digits 200; 0 holds none out. `train_size` keeps the first so many of the
    others. Official sets keep their order, which is a mixed one. Arrays of one's own may be sorted
    by label: they are taken in an order, the same always, in which every part has its share of
    each class. `data_dir` is needed where files are.

    A split that lacks a class is warned of, and a training split of one class refused.
    """
    if name.startswith("npz:"):
        arrays = read_npz(pathlib.Path(name.removeprefix("npz:")).expanduser())
        mixed = interleave(arrays.y_train)
        arrays = arrays._replace(x_train=arrays.x_train[mixed], y_train=arrays.y_train[mixed])
        names = tuple(str(label) for label in range(int(arrays.y_train.max()) + 1))
        row = Row(lambda _: arrays, arrays.x_train.shape[1:], names, (0, 0))
    elif name in DATASETS:
        row = DATASETS[name]
        arrays = read(name, row, data_dir, download, progress)
    else:
        raise DataError(nearest("dataset", name, [*DATASETS, "npz:PATH"]))
    at = cut(name, len(arrays.y_train), val_size, row.val_size)
    kept = at if train_size is None else train_size
    if not isinstance(kept, (int, np.integer)):
        raise DataError(f"{name}: train_size={kept!r} must be a whole number of images")
    if not 0 < kept <= at:
        raise DataError(f"{name}: train_size must lie in 1 .. {at}, not {train_size}")
    x_train, x_val = arrays.x_train[:kept], arrays.x_train[at:]
    y_train, y_val = arrays.y_train[:kept], arrays.y_train[at:]
    check_classes(name, y_train, y_val, row.class_names)
    mean, std = moments(x_train) if row.mean is None or row.std is None else (row.mean, row.std)
    return Dataset(
        name,
        x_train,
        y_train,
        x_val,
        y_val,
        arrays.x_test,
        arrays.y_test,
        len(row.class_names),
        row.class_names,
        mean,
        std,
        row.augment,
    )


def check_classes(
    name: str, y_train: np.ndarray, y_val: np.ndarray, class_names: tuple[str, ...]
) -> None:
    """A DataError if training has one class alone; a warning for each split that lacks classes."""
    if len(found := np.unique(y_train)) < 2:
        raise DataError(
            f"{name}: all {len(y_train)} training images are of the class {class_names[found[0]]}:"
            " there is nothing to tell apart"
        )
    for split, y in (("training", y_train), ("validation", y_val)):
        absent = np.setdiff1d(np.arange(len(class_names)), y)
        if len(y) and len(absent):
            few = ", ".join(class_names[i] for i in absent[:5]) + ", ..." * (len(absent) > 5)
            warnings.warn(
                f"{name}: none of the {len(y)} {split} images is of the class {few}"
                f" ({len(absent)} of {len(class_names)} classes)",
                stacklevel=3,
            )


def read(
    name: str,
    row: Row,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
    progress: bool,
) -> Arrays:
    """The arrays of a row from the first source in data_dir that has them, or downloaded."""
    if not row.archives:
        return row.read({})
    if data_dir is None:
        raise DataError(f"{name}: data_dir is needed, the folder of its files")
    root = pathlib.Path(data_dir).expanduser()
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}: data_dir must be a folder")
    if tree := find_tree(row, root):
        where, arrays = tree, read_tree(row, tree)
    else:
        where, arrays = root, read_official(name, row, root, download, progress)
    counts = len(arrays.y_train), len(arrays.y_test)
    if 0 in counts:
        raise DataError(f"{where}: {name} has {counts[0]} training and {counts[1]} test images")
    if counts != row.counts:
        warnings.warn(
            f"{name} in {where} has {counts[0]:,} training and {counts[1]:,} test images, the"
            f" official set {row.counts[0]:,} and {row.counts[1]:,}",
            stacklevel=3,
        )
    return arrays


def read_official(
    name: str, row: Row, root: pathlib.Path, download: bool, progress: bool
) -> Arrays:
    """From the official files, after fetching those that are missing if `download` allows it."""
    files, wanted = official.find_files(row, root)
    if wanted:
        known = official.known_files(row)
        missing = {archive: known[archive] for archive in wanted}
        if not download:
            raise DataError(f"{name}: not found in {root}; {describe(missing, root / name)}")
        fetch(name, missing, root / name, progress)
        files, _ = official.find_files(row, root)
    return row.read(files)
