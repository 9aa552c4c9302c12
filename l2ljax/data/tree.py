"""A tree that tensorflow_datasets has prepared, read without TensorFlow.

array_record files have random access by themselves; of tfrecord files, the default of tfds, the
headers of all records are read once, and then any record by its place. tfds shuffles when it
prepares, so the images of our own table are sorted back by their "id" where there is one (CIFAR,
SVHN), and a validation split is then the same whatever the source. The two MNISTs have no id and
keep the tree's order.
"""

import array
import pathlib
import struct
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from l2ljax.data.dataset import Arrays
from l2ljax.data.pictures import decode, pictures
from l2ljax.data.table import Row, checked_range
from l2ljax.errors import DataError

TEST = ("test", "validation", "val", "valid")
"""The split that is the test set: the first of these that the tree has with labels."""


def find_tree(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
    """<data_dir>/<name>/[config/]<version> of the highest version, if there is one.

    The name may say configuration and version too.
    """
    root = data_dir / name
    if (root / "dataset_info.json").is_file():
        return root
    found = [p.parent for depth in ("*", "*/*") for p in root.glob(f"{depth}/dataset_info.json")]
    found = [path for path in found if path.name.replace(".", "").isdigit()]
    return max(found, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def configurations(name: str, data_dir: pathlib.Path) -> list[str]:
    """name/config for every configuration in which a data set of several was prepared."""
    infos = (data_dir / name).glob("*/*/dataset_info.json")
    return sorted({f"{name}/{path.parent.parent.name}" for path in infos})


class Tree:
    """The examples of a prepared tree by split and row, their images still encoded."""

    def __init__(self, folder: pathlib.Path) -> None:
        import tensorflow_datasets as tfds
        from google.protobuf import json_format, message

        # array_record says RuntimeError, protobuf its own two, a missing split ValueError.
        self.damaged = (RuntimeError, OSError, ValueError, KeyError, TypeError, AssertionError)
        self.damaged += (json_format.ParseError, message.DecodeError)
        self.folder = folder
        self.builder: Any = self.guarded(lambda: tfds.builder_from_directory(folder))
        self.splits: dict[str, Any] = dict(self.builder.info.splits)
        self.image, self.label = self._keys()
        self.decoders = {self.image: tfds.decode.SkipDecoding()}

    def guarded(self, read: Callable[[], Any]) -> Any:
        """What `read` returns, or one line that names the tree."""
        try:
            return read()
        except DataError:
            raise
        except self.damaged as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.folder}: not a readable tfds tree: {reason}") from error

    def examples(self, split: str) -> tuple[int, Callable[[int], dict[str, Any]]]:
        """How many examples a split has, and: row -> one of them."""
        import tensorflow_datasets as tfds

        if split not in self.splits:
            known = ", ".join(self.splits)
            raise DataError(f"{self.folder}: not a readable tfds tree: no split {split} in {known}")
        if self.builder.info.file_format == tfds.core.FileFormat.TFRECORD:
            paths = [pathlib.Path(path) for path in self.splits[split].filepaths]
            records = self.guarded(lambda: Records(paths))
        else:
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            source = self.builder.as_data_source
            records = self.guarded(lambda: source(split, deserialize_method=raw))
        n, expected = len(records), self.splits[split].num_examples
        if n != expected:
            raise DataError(f"{self.folder}: expected {expected} {split} images, found {n}")
        features = self.builder.info.features

        def read(i: int) -> dict[str, Any]:
            decoders = self.decoders
            return self.guarded(
                lambda: features.deserialize_example_np(records[i], decoders=decoders)
            )

        return n, read

    def labels(self, split: str) -> np.ndarray:
        """The labels of a split: every record is read once, one after another."""
        n, read = self.examples(split)
        return np.fromiter((read(i)[self.label] for i in range(n)), np.int64, n)

    def _keys(self) -> tuple[str, str]:
        """Under which names the features have the image and the label."""
        import tensorflow_datasets as tfds

        features, found = self.builder.info.features, []
        supervised = self.builder.info.supervised_keys or ()
        for kind, usual in ((tfds.features.Image, "image"), (tfds.features.ClassLabel, "label")):
            names = [name for name, feature in features.items() if isinstance(feature, kind)]
            chosen = [n for n in names if n in supervised] or [n for n in names if n == usual]
            if len(chosen or names) != 1:
                raise DataError(
                    f"{self.folder}: expected one {kind.__name__} among the features "
                    f"{', '.join(sorted(features))}; found {', '.join(sorted(names)) or 'none'}"
                )
            found += chosen or names
        return found[0], found[1]


class Records:
    """The records of tfrecord files by number; only where each begins is kept in memory.

    A record is: length (8 bytes), its CRC (4), data, CRC of the data (4). CRCs are not checked: a
    picture carries checksums of its own, and the count is compared with the tree's.
    """

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        self.paths, places = paths, array.array("q")
        for number, path in enumerate(paths):
            size, start = path.stat().st_size, 0
            with path.open("rb", buffering=0) as file:
                while start < size:
                    file.seek(start)
                    head = file.read(12)
                    length = struct.unpack_from("<Q", head)[0] if len(head) == 12 else size
                    if start + 12 + length + 4 > size:
                        raise DataError(f"{path}: ends inside a record, at byte {size}: truncated?")
                    places.extend((number, start + 12, length))
                    start += 12 + length + 4
        self.places = np.array(places, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> bytes:
        number, start, length = self.places[i]
        with self.paths[number].open("rb") as file:
            file.seek(start)
            return file.read(length)


def read_row(row: Row, folder: pathlib.Path) -> Arrays:
    """The splits train and test of a set of our table, in the order of the official files."""
    tree, parts = Tree(folder), []
    for split in ("train", "test"):
        n, read = tree.examples(split)
        x, y, ids = np.empty((n, *row.shape), np.uint8), np.empty(n, np.int64), []
        for i in range(n):
            example, where = read(i), f"{folder}: {split} image {i}"
            image = decode(example[tree.image], where, row.shape[-1], None)
            if image.shape != row.shape:
                raise DataError(f"{where} has the shape {image.shape}, expected {row.shape}")
            x[i], y[i] = image, example[tree.label]
            ids.append(example.get("id", b""))
        order = np.argsort(np.array(ids), kind="stable")
        y = checked_range(f"{folder} ({split})", y, 0, len(row.class_names) - 1)
        parts += [x[order], y[order]]
    return Arrays(*parts)


def read_tree(folder: pathlib.Path, image_size: int | None = None) -> dict[str, Any]:
    """The splits of any image classification set as `train`, `test` and, if it has one, `val`."""
    tree = Tree(folder)
    feature, names = tree.builder.info.features[tree.image], _class_names(tree)
    if np.dtype(feature.np_dtype) != np.uint8:
        raise DataError(f"{folder}: images of {feature.np_dtype}, expected uint8")
    channels = 1 if feature.shape[-1] == 1 else 3
    labels = {}
    for split in ("train", *TEST):
        if split in tree.splits:
            y = tree.labels(split)
            if y.size and y.max() < 0:
                line = f"{folder}: the split {split} has no labels and is not used"
                warnings.warn(line, stacklevel=4)
            elif y.size:
                labels[split] = y
    if "train" not in labels or len(labels) < 2:
        known = ", ".join(sorted(tree.splits))
        raise DataError(f"{folder}: expected the splits train and test or validation, not {known}")
    train, parts = None, {}
    for split, name in zip(labels, ("train", "test", "val"), strict=False):
        n, read = tree.examples(split)

        def encoded(i: int, read: Callable[[int], dict[str, Any]] = read) -> bytes:
            return read(i)[tree.image]

        def where(i: int, split: str = split) -> str:
            return f"{folder}: {split} image {i}"

        x = pictures(encoded, where, n, channels, image_size, train)
        train = x if train is None else train
        y = checked_range(f"{folder} ({split})", labels[split], 0, len(names) - 1)
        parts[name] = x, y
    return {**parts, "class_names": names}


def _class_names(tree: Tree) -> tuple[str, ...]:
    """Those that the tree knows, or numbers."""
    label = tree.builder.info.features[tree.label]
    return tuple(label.names or map(str, range(label.num_classes)))
