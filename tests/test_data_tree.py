"""Trees written by tensorflow_datasets itself; TensorFlow is not needed if PNGs are given ready."""

import io
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from l2ljax.data import load
from l2ljax.errors import DataError
from test_data_official import TRAIN, arrays, assert_loads, members, tiny_counts, write

__all__ = ["tiny_counts"]  # a fixture, used by every test here

# These sets are too small to have an image of every class.
pytestmark = pytest.mark.filterwarnings("ignore:.* images is of the class")


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image.squeeze()).save(stream, "PNG")
    return stream.getvalue()


def examples(name, split, ids):
    x, y, x_test, y_test = arrays(name)
    pairs = zip(x, y, strict=True) if split == "train" else zip(x_test, y_test, strict=True)
    for i, (image, label) in enumerate(pairs):
        example = {"image": io.BytesIO(png(image)), "label": label}
        yield i, {**example, **({"id": f"{split}_{i:05d}"} if ids else {})}


def prepare(folder, name, tfds_name, ids):
    """A prepared tree of array_record files in the shuffled order that tfds chooses."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    image = tfds.features.Image(shape=arrays(name)[0].shape[1:])
    features = {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}
    if ids:
        features["id"] = tfds.features.Text()

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def generators(self, manager):
        return {split: examples(name, split, ids) for split in ("train", "test")}

    body = {
        "name": tfds_name,
        "VERSION": tfds.core.Version("3.0.2"),
        "pkg_dir_path": folder,
        "_info": info,
        "_split_generators": generators,
        "_generate_examples": lambda self: None,
    }
    base = tfds.core.GeneratorBasedBuilder
    builder = type("Tiny", (base,), body, skip_registration=True)
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture(scope="module")
def cifar_tree(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("cifar"), "cifar10", "cifar10", ids=True)


def to_tfrecord(folder):
    """Rewrite a tree as what tfds prepares by default: length, CRC, data, CRC."""
    from array_record.python.array_record_module import ArrayRecordReader

    for path in folder.rglob("*array_record*"):
        reader = ArrayRecordReader(str(path))
        records = reader.read(list(range(reader.num_records())))
        out = path.with_name(path.name.replace("array_record", "tfrecord"))
        out.write_bytes(b"".join(struct.pack("<QI", len(r), 0) + r + bytes(4) for r in records))
        path.unlink()
    info = next(folder.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    return folder


def test_a_prepared_tree_comes_back_in_the_official_order(cifar_tree):
    assert_loads("cifar10", cifar_tree)


def test_the_tfrecord_tree_is_read_without_tensorflow(cifar_tree, tmp_path):
    assert_loads("cifar10", to_tfrecord(shutil.copytree(cifar_tree, tmp_path / "tree")))


def test_a_grey_tree_without_ids_keeps_all_pairs_of_image_and_label(tmp_path):
    data = load("mnist", data_dir=prepare(tmp_path, "mnist", "mnist", ids=False), val_size=4)
    x, y, _, _ = arrays("mnist")
    ours = zip(
        np.concatenate([data.x_train, data.x_val]),
        np.concatenate([data.y_train, data.y_val]),
        strict=True,
    )
    pairs = {(image.tobytes(), int(label)) for image, label in ours}
    assert pairs == {(image.tobytes(), int(label)) for image, label in zip(x, y, strict=True)}
    assert len(data.y_train) == TRAIN - 4


def test_the_tree_comes_before_the_unpacked_folder(cifar_tree, tmp_path):
    tree = shutil.copytree(cifar_tree, tmp_path / "both")
    files = members("cifar10")
    write(tree, {path: bytes(len(data)) for path, data in files.items()})
    assert_loads("cifar10", tree)


@pytest.mark.parametrize("place", ["3.0.10", "configuration/3.0.10"])
def test_the_highest_version_is_found_with_and_without_configuration(cifar_tree, tmp_path, place):
    good = cifar_tree / "cifar10" / "3.0.2"
    shutil.copytree(good, tmp_path / "cifar10" / place)
    bad = shutil.copytree(good, tmp_path / "cifar10" / "3.0.9")
    (bad / "features.json").write_text("{")
    assert_loads("cifar10", tmp_path)


@pytest.mark.parametrize(
    "pattern, data",
    [
        ("*train*", b"x" * 1000),
        ("features.json", b"{"),
        ("dataset_info.json", b"{"),
        ("*test*", None),
    ],
)
def test_a_damaged_tree_is_named_and_nothing_else_tried(cifar_tree, tmp_path, pattern, data):
    tree = write(shutil.copytree(cifar_tree, tmp_path / "tree"), members("cifar10"))
    path = next(p for p in (tree / "cifar10").rglob(pattern))
    path.unlink()
    if data:
        path.write_bytes(data)
    with pytest.raises(DataError, match=r"cifar10/3\.0\.2: not a readable tfds tree: ") as info:
        load("cifar10", data_dir=tree)
    assert "\n" not in str(info.value)


def test_a_truncated_tfrecord_is_named(cifar_tree, tmp_path):
    tree = to_tfrecord(shutil.copytree(cifar_tree, tmp_path / "tree"))
    path = next(tree.rglob("*train*"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="train.tfrecord.*ends inside a record"):
        load("cifar10", data_dir=tree)


def test_a_lost_record_is_counted(cifar_tree, tmp_path):
    tree = to_tfrecord(shutil.copytree(cifar_tree, tmp_path / "tree"))
    path = next(tree.rglob("*train*"))
    first = struct.unpack_from("<Q", path.read_bytes())[0]
    path.write_bytes(path.read_bytes()[first + 16 :])
    with pytest.raises(DataError, match=f"expected {TRAIN} train images, found {TRAIN - 1}"):
        load("cifar10", data_dir=tree)
