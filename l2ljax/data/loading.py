"""`load`: a name -> three splits; `from_user`: the same of a user's own arrays and sources."""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from l2ljax.data import official
from l2ljax.data.dataset import Dataset, make_dataset
from l2ljax.data.pictures import read_folder
from l2ljax.data.sources import as_source
from l2ljax.data.stream import Stream, checked_arrays
from l2ljax.data.table import DATASETS, Row
from l2ljax.data.tree import configurations, find_tree, read_tree
from l2ljax.errors import DataError, nearest
from l2ljax.settings import Setting, settings_of

SETTINGS = [
    Setting(
        "image_size",
        int,
        "side to which pictures of folder:PATH and tfds:NAME are resized and cropped; their own",
        bounds="> 0",
    )
]
"""What `load` takes beside the sizes of the splits."""

KINDS = ("npz:PATH", "folder:PATH", "tfds:NAME")
"""Data sets that need no row in DATASETS."""

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    val_size: int | None = None,
    train_size: int | None = None,
    image_size: int | None = None,
    download: bool = True,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> Dataset:
    """The data set `name`: a row of DATASETS, npz:PATH, folder:PATH or tfds:NAME.

    The last `val_size` training images are the validation split, by default min(1000, 10 %) of
    them, and for the digits 200; 0 holds none out. `train_size` keeps the first so many of the
    others. Official sets keep their order, which is a mixed one. All others may be sorted by label:
    they are taken in an order, the same always, in which every part has its share of each class.
    `data_dir` is needed where files are. NAME alone does for tfds:NAME, where data_dir has that
    prepared tree and DATASETS no such row. `settings` are those of a user's own function.

    A split that lacks a class is warned of, and a training split of one class refused.
    """
    sizes: dict[str, Any] = {"val_size": val_size, "train_size": train_size}
    root = None if data_dir is None else pathlib.Path(data_dir).expanduser()
    if root and root.exists() and not root.is_dir():
        raise DataError(f"{root}: data_dir must be a folder")
    SETTINGS[0].check(image_size)
    kind, _, place = name.partition(":")
    if f"{kind}:PATH" in KINDS and place:
        path = pathlib.Path(place).expanduser()
        if kind == "folder":
            return from_user(read_folder(path, image_size), name, **sizes)
        _fixed(name, image_size)
        return from_user(read_npz(path), name, **sizes)
    tree = None if root is None else _any_tree(name.removeprefix("tfds:"), root)
    if name not in DATASETS and tree:
        return from_user(read_tree(tree, image_size), name, **sizes)
    if kind == "tfds" and place:
        raise DataError(
            f"{name}: no prepared tree in {root or 'data_dir, which is not given'}; "
            f"tensorflow_datasets.load({place!r}, data_dir=...) prepares one"
        )
    if name not in DATASETS:
        raise DataError(nearest("dataset", name, [*DATASETS, *KINDS]))
    row = DATASETS[name]
    _fixed(name, image_size)
    if not isinstance(row, Row):
        return from_user(row(**_checked_settings(name, row, settings or {})), name, **sizes)
    if settings:
        raise DataError(f"{name} has no settings of its own: {', '.join(settings)}")
    x_train, y_train, x_test, y_test = official.read(name, row, root, download, progress)
    return make_dataset(
        name,
        (x_train, y_train),
        (x_test, y_test),
        class_names=row.class_names,
        default_val_size=row.val_size,
        mixed=True,
        mean=row.mean,
        std=row.std,
        augment=row.augment,
        **sizes,
    )


def outline(
    name: str, *, val_size: int | None = None, train_size: int | None = None
) -> Dataset | None:
    """The data set `name` as to its sizes: black images that take no memory, and no file is read.

    None where only the files say how many images there are.
    """
    row = DATASETS.get(name)
    if not isinstance(row, Row):
        return None
    classes, channels = len(row.class_names), row.shape[-1]

    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n, dtype=np.int32) % classes
        return np.broadcast_to(np.zeros((), np.uint8), (n, *row.shape)), y

    return make_dataset(
        name,
        part(row.counts[0]),
        part(row.counts[1]),
        class_names=row.class_names,
        default_val_size=row.val_size,
        mixed=True,
        mean=row.mean or (0.5,) * channels,
        std=row.std or (0.25,) * channels,
        augment=row.augment,
        val_size=val_size,
        train_size=train_size,
    )


def from_user(
    thing: Any, name: str, *, val_size: int | None = None, train_size: int | None = None
) -> Dataset:
    """A user's own data, checked, as a Dataset. `name` begins every line about them.

    thing: four arrays (x_train, y_train, x_test, y_test); two sources (train, test), each whatever
    `as_source` takes; or a dict with these names and, if wanted, x_val and y_val or val,
    class_names, mean, std and augment. A finished Dataset is taken as it is.

    Validation is the part val_size of the training images, every class with its share, unless the
    data have a validation split of their own. mean and std are computed on training images; where
    these are read from a source, on dataset.SAMPLE of them. Labels are integers from 0 on without a
    gap; the number of classes is the largest training label plus one, if class_names do not say it.
    """
    if isinstance(thing, Dataset):
        if (val_size, train_size) != (None, None):
            raise DataError(
                f"{name}: a finished Dataset has its sizes; give no val_size, train_size"
            )
        return thing
    given = _named(thing, name)
    parts = {split: _split(split, given, name) for split in ("train", "val", "test")}
    train, val, test = (parts[split] for split in ("train", "val", "test"))
    if train is None or test is None:
        lacking = "train" if train is None else "test"
        raise DataError(f"{name}: neither {lacking} nor x_{lacking} and y_{lacking} are given")
    names = given.get("class_names")
    allowed = f"and there are {len(names or ())} class_names"
    if not names:
        names = tuple(map(str, range(_count_classes(train, name))))
        allowed = f"y_train none above {len(names) - 1}"
    for split, part in parts.items():
        if part is not None:
            _check_against(train[0], part, split, len(names), allowed, name)
    for key in ("mean", "std"):
        channels = train[0].shape[-1]
        if given.get(key) is not None and len(given[key]) != channels:
            said = f"{key} has {len(given[key])} numbers, the images {channels} channels"
            raise DataError(f"{name}: {said}")
    options = {key: given[key] for key in ("mean", "std", "augment") if key in given}
    sizes: dict[str, Any] = {"val_size": val_size, "train_size": train_size}
    return make_dataset(name, train, test, val=val, class_names=names, **sizes, **options)


def _named(thing: Any, name: str) -> dict[str, Any]:
    """What a user gave, by name."""
    if isinstance(thing, (tuple, list)) and len(thing) in (2, 4):
        return dict(zip(KEYS if len(thing) == 4 else ("train", "test"), thing, strict=True))
    if not isinstance(thing, Mapping):
        size = f" of {len(thing)}" if isinstance(thing, (tuple, list)) else ""
        raise DataError(
            f"{name} is a {type(thing).__name__}{size}: a data set is a Dataset, four arrays "
            "(x_train, y_train, x_test, y_test), two sources (train, test) or a dict of these"
        )
    known = (*KEYS, "x_val", "y_val", "train", "val", "test")
    known += ("class_names", "mean", "std", "augment")
    for key in thing:
        if key not in known:
            raise DataError(f"{name}: {nearest('key', str(key), known)}")
    return dict(thing)


def _split(split: str, given: Mapping[str, Any], name: str) -> tuple[Any, Any] | None:
    """Images and labels of a split: given as arrays, as a source, or not at all."""
    if given.get(split) is not None:
        return as_source(given[split], f"{name}: {split}")
    keys = f"x_{split}", f"y_{split}"
    if given.get(keys[0]) is None:
        return None
    try:
        return checked_arrays(given[keys[0]], given.get(keys[1]), keys)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _count_classes(train: tuple[Any, Any], name: str) -> int:
    if isinstance(train[0], Stream):
        return train[0].num_classes or 0
    found = np.unique(train[1])
    if found[-1] != len(found) - 1:
        gap = int(np.flatnonzero(found != np.arange(len(found)))[0])
        raise DataError(
            f"{name}: y_train reaches to {found[-1]} and has no image of class {gap}: number the "
            "classes from 0 without a gap"
        )
    return len(found)


def _check_against(
    x_train: Any, part: tuple[Any, Any], split: str, k: int, allowed: str, name: str
) -> None:
    """That a split has images and labels like those of training."""
    x, y = part
    if isinstance(x, Stream) and split != "train":
        raise DataError(f"{name}: {split} is a stream of batches: give arrays or items")
    if x_train.shape[1:] != x.shape[1:]:
        shapes = x_train.shape[1:], x.shape[1:]
        raise DataError(
            f"{name}: x_train has images of shape {shapes[0]}, x_{split} of {shapes[1]}"
        )
    if x_train.dtype != x.dtype:
        types = f"x_train is {x_train.dtype}, x_{split} {x.dtype}"
        raise DataError(f"{name}: {types}: give both in one scale")
    top = (x.num_classes or 0) - 1 if isinstance(x, Stream) else y.max()
    if top >= k:
        raise DataError(f"{name}: y_{split} has the label {top}, {allowed}")


def _checked_settings(name: str, function: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a user's function, each of which its signature declares."""
    known = {setting.name: setting for setting in settings_of(function)}
    for key, value in settings.items():
        if key not in known:
            raise DataError(nearest(f"setting of {name}", key, known))
        known[key].check(value)
    return dict(settings)


def _fixed(name: str, image_size: int | None) -> None:
    if image_size is not None:
        raise DataError(
            f"--image_size={image_size}: the images of {name} are of one size already; pictures of "
            "folder:PATH and tfds:NAME are resized"
        )


def _any_tree(name: str, root: pathlib.Path) -> pathlib.Path | None:
    """The prepared tree of that name, of which there may be one configuration alone."""
    several = configurations(name, root)
    if len(several) > 1:
        raise DataError(f"{name} in {root} has several configurations: name {' or '.join(several)}")
    return find_tree(name, root)


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The four arrays of a file by name; pickled ones are refused, never loaded."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not an npz file (numpy.savez writes one): no zip archive")
    try:
        with np.load(path, allow_pickle=False) as content:
            if missing := [key for key in KEYS if key not in content.files]:
                found = ", ".join(content.files) or "nothing"
                raise DataError(f"{path}: {', '.join(missing)} missing, found {found}")
            return {key: _read_array(path, content, key) for key in KEYS}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise DataError(f"{path}: damaged npz file: {error}") from error


def _read_array(path: pathlib.Path, content: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    """One array; NumPy says ValueError for a pickled one and for a damaged header."""
    try:
        return content[key]
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: {key} is not a plain array of numbers: {reason}") from error
