"""A tree that tensorflow_datasets has prepared, read without TensorFlow.

array_record goes through `as_data_source`; tfrecord, the default of tfds, has no random access and
is read record by record here. The one surprising thing: tfds shuffles when it prepares, so images
are sorted back by their "id" where there is one (CIFAR, SVHN), and a validation split is then the
same whatever the source. The two MNISTs have no id and keep the tree's order.
"""

import io
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from l2ljax.data.dataset import Arrays
from l2ljax.data.formats import checked_labels
from l2ljax.data.table import Row
from l2ljax.errors import DataError


def find_tree(row: Row, data_dir: pathlib.Path) -> pathlib.Path | None:
    """<data_dir>/<tfds name>/[config/]<version> of the highest version, if there is one."""
    root = data_dir / row.tfds
    found = [p.parent for depth in ("*", "*/*") for p in root.glob(f"{depth}/dataset_info.json")]
    found = [path for path in found if path.name.replace(".", "").isdigit()]
    return max(found, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def read_tree(row: Row, folder: pathlib.Path) -> Arrays:
    """The splits train and test of a prepared tree."""
    import tensorflow_datasets as tfds
    from google.protobuf import json_format, message

    # array_record says RuntimeError, PIL OSError, protobuf its own two, a missing split ValueError.
    damaged = (RuntimeError, OSError, ValueError, KeyError, TypeError, AssertionError)
    try:
        builder = tfds.builder_from_directory(folder)
        parts = [part for split in ("train", "test") for part in read_split(row, builder, split)]
    except DataError:
        raise
    except (*damaged, json_format.ParseError, message.DecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{folder}: not a readable tfds tree: {reason}") from error
    return Arrays(*parts)


def read_split(row: Row, builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """One split, in the order of the official files where the tree has ids."""
    from PIL import Image

    n = builder.info.splits[split].num_examples
    x, y = np.empty((n, *row.shape), np.uint8), np.empty(n, np.int64)
    ids, count = [], 0
    for example in read_examples(builder, split):
        image = np.asarray(Image.open(io.BytesIO(example["image"]))).reshape(row.shape)
        if count < n:
            x[count], y[count] = image, example["label"]
        ids.append(example.get("id", b""))
        count += 1
    if count != n:
        raise DataError(f"{builder.data_dir}: expected {n} {split} images, found {count}")
    order = np.argsort(np.array(ids), kind="stable")
    y = checked_labels(f"{builder.data_dir} ({split})", y, 0, len(row.class_names) - 1)
    return x[order], y[order]


def read_examples(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a split in the order of the tree, images still encoded."""
    import tensorflow_datasets as tfds

    encoded = {"image": tfds.decode.SkipDecoding()}
    if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        for path in builder.info.splits[split].filepaths:
            for record in read_tfrecord(pathlib.Path(path)):
                yield builder.info.features.deserialize_example_np(record, decoders=encoded)
    else:
        yield from builder.as_data_source(split, decoders=encoded)


def read_tfrecord(path: pathlib.Path) -> Iterator[bytes]:
    """Records of: length (8 bytes), its CRC (4), data, CRC of the data (4); CRCs are not checked.

    A PNG carries checksums of its own, and the count is compared with the tree's.
    """
    data, start = path.read_bytes(), 0
    while start < len(data):
        stop = start + 12
        if stop <= len(data):
            stop += struct.unpack_from("<Q", data, start)[0]
        if stop + 4 > len(data):
            raise DataError(f"{path}: ends inside a record, at byte {len(data)}: truncated?")
        yield data[start + 12 : stop]
        start = stop + 4
