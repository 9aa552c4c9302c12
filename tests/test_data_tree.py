"""Trees written by tensorflow_datasets itself; TensorFlow is not needed if PNGs are given ready."""

import io
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

from l2ljax.data import Images, load
from l2ljax.data.tree import Records
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
    for info in folder.rglob("dataset_info.json"):
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


def prepare_any(folder, name, features, splits, supervised=None, version="1.0.0"):
    """A prepared tree of any set: its features, and the examples of every split."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    name, _, config = name.partition("/")

    def info(self):
        features_dict = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(
            builder=self, features=features_dict, supervised_keys=supervised
        )

    body = {
        "name": name,
        "VERSION": tfds.core.Version(version),
        "pkg_dir_path": folder,
        "_info": info,
        "_split_generators": lambda self, manager: {k: iter(v) for k, v in splits.items()},
        "_generate_examples": lambda self: None,
    }
    if config:
        kept = tfds.core.BuilderConfig(name=config, version=tfds.core.Version(version))
        body["BUILDER_CONFIGS"] = [kept]
    builder = type("Any", (tfds.core.GeneratorBasedBuilder,), body, skip_registration=True)
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def jpeg(label, i, size):
    """A picture whose colour is that of its label."""
    image = np.random.default_rng([label, i]).integers(0, 60, (*size, 3), "uint8")
    image[..., label] += 150
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95)
    return io.BytesIO(stream.getvalue())


def coloured(n, size, image="image", label="label", labels=None):
    for i in range(n):
        height, width = size if isinstance(size, tuple) else (size + i % 3, size + i % 5)
        truth = i % 3
        example = {image: jpeg(truth, i, (height, width)), label: truth if labels is None else -1}
        yield i, {"name": f"{i}", **example}


def features_of(tfds, shape, image="image", label="label", extra=True):
    named = {"name": tfds.features.Text()} if extra else {}
    return named | {
        image: tfds.features.Image(shape=shape, encoding_format="jpeg"),
        label: tfds.features.ClassLabel(names=["red", "green", "blue"]),
    }


@pytest.fixture(scope="module")
def any_tree(tmp_path_factory):
    """Imagenette (sizes vary), imagenet_resized (a validation split), gtsrb (no test labels)."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("any")
    free, fixed = features_of(tfds, (None, None, 3)), features_of(tfds, (8, 8, 3))
    prepare_any(
        root,
        "imagenette/160px-v2",
        features_of(tfds, (None, None, 3), extra=False),
        {s: ((i, e) for i, e in without_name(coloured(n, 12))) for s, n in TWO.items()},
        ("image", "label"),
    )
    both = {"train": coloured(12, (8, 8)), "validation": coloured(6, (8, 8))}
    prepare_any(root, "imagenet_resized/8x8", fixed, both)
    three = {
        "train": coloured(12, 10),
        "validation": coloured(6, 10),
        "test": coloured(6, 10, labels=-1),
    }
    prepare_any(root, "visual_domain_decathlon/gtsrb", free, three, ("image", "label"))
    return root


TWO = {"train": 15, "validation": 6}


def without_name(examples):
    for i, example in examples:
        example.pop("name")
        yield i, example


@pytest.fixture(params=["array_record", "tfrecord"])
def any_root(request, any_tree, tmp_path):
    if request.param == "array_record":
        return any_tree
    return to_tfrecord(shutil.copytree(any_tree, tmp_path / "tfrecord"))


def colours(x):
    return x[:].mean((1, 2)).argmax(-1)


def test_any_image_classification_tree_is_read_by_its_name(any_root):
    data = load("imagenette/160px-v2", data_dir=any_root, val_size=3, image_size=8)
    assert isinstance(data.x_train, Images) and data.x_train.shape == (12, 8, 8, 3)
    assert len(data.x_val) == 3 and data.class_names == ("red", "green", "blue")
    assert len(data.x_test) == 6, "validation is the test set where there is no other"
    for x, y in (
        (data.x_train, data.y_train),
        (data.x_val, data.y_val),
        (data.x_test, data.y_test),
    ):
        assert (colours(x) == y).all()
    same = load("tfds:imagenette", data_dir=any_root, val_size=3, image_size=8)
    assert (same.x_train[:] == data.x_train[:]).all()
    with pytest.raises(
        DataError, match="image [0-9]+ is an image .*: give --image_size=N, to which all are res"
    ):
        load("imagenette", data_dir=any_root, val_size=3).x_train[:]
    fixed = load("imagenet_resized/8x8/1.0.0", data_dir=any_root, val_size=3)
    assert fixed.x_train.shape == (9, 8, 8, 3) and len(fixed.x_test) == 6
    assert (colours(fixed.x_train) == fixed.y_train).all()


def test_a_test_split_without_labels_is_said_and_validation_taken(any_root):
    with pytest.warns(UserWarning, match="the split test has no labels and is not used"):
        data = load("visual_domain_decathlon/gtsrb", data_dir=any_root, val_size=3, image_size=9)
    assert len(data.x_train) == 9 and len(data.x_val) == 3 and len(data.x_test) == 6
    assert (colours(data.x_test) == data.y_test).all()


def test_other_keys_grey_pictures_and_a_validation_split_of_its_own(tmp_path):
    import tensorflow_datasets as tfds

    features = features_of(tfds, (8, 8, 3), image="photo", label="kind")
    splits = {s: coloured(6, (8, 8), "photo", "kind") for s in ("train", "validation", "test")}
    prepare_any(tmp_path, "photos", features, splits)
    data = load("photos", data_dir=tmp_path)
    assert len(data.x_train) == len(data.x_val) == len(data.x_test) == 6
    assert (colours(data.x_val) == data.y_val).all()
    with pytest.raises(
        DataError, match="tfds:picture: no prepared tree in .*tensorflow_datasets.loa"
    ):
        load("tfds:picture", data_dir=tmp_path)
    with pytest.raises(DataError, match="unknown dataset 'picture': .* Known: digits.*tfds:NAME"):
        load("picture", data_dir=tmp_path)
    grey = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": features["kind"]}
    x = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8, 1)
    splits = {
        split: [(i, {"image": io.BytesIO(png(image)), "label": i % 3}) for i, image in enumerate(x)]
        for split in ("train", "test")
    }
    prepare_any(tmp_path, "grey", grey, splits)
    data = load("grey", data_dir=tmp_path, val_size=3)
    assert data.x_train.shape == (3, 8, 8, 1)
    found = {image.tobytes() for image in [*data.x_train[:], *data.x_val]}
    assert found == {image.tobytes() for image in x}


def test_trees_that_do_not_serve_get_one_line(tmp_path, any_tree):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(num_classes=3)
    image = tfds.features.Image(shape=(8, 8, 3), encoding_format="jpeg")
    pair = [(0, {"a": jpeg(0, 0, (8, 8)), "b": jpeg(0, 0, (8, 8)), "label": 0})]
    prepare_any(tmp_path, "two", {"a": image, "b": image, "label": label}, {"train": pair})
    only = [(0, {"image": jpeg(0, 0, (8, 8)), "label": 0})]
    prepare_any(tmp_path, "one", {"image": image, "label": label}, {"train": only, "rest": only})
    shutil.copytree(any_tree / "imagenette", tmp_path / "imagenette")
    again = tmp_path / "imagenette" / "full-size-v2"
    shutil.copytree(tmp_path / "imagenette" / "160px-v2", again)
    cases = [
        ("two", "expected one Image among the features a, b, label; found a, b"),
        ("one", "expected the splits train and test or validation, not rest, train"),
        (
            "imagenette",
            "has several configurations: name imagenette/160px-v2 or imagenette/full-si",
        ),
    ]
    for name, line in cases:
        with pytest.raises(DataError, match=line) as info:
            load(name, data_dir=tmp_path, image_size=8)
        assert "\n" not in str(info.value)


def test_of_tfrecords_only_the_places_of_the_records_are_kept(tmp_path):
    sizes = [3, 0, 70_000, 11]
    paths = [tmp_path / "a", tmp_path / "b"]
    records = [bytes([i]) * size for i, size in enumerate(sizes)]
    for path, part in zip(paths, (records[:1], records[1:]), strict=True):
        path.write_bytes(b"".join(struct.pack("<QI", len(r), 0) + r + bytes(4) for r in part))
    found = Records(paths)
    assert len(found) == 4 and [found[i] for i in (3, 1, 0, 2)] == [
        records[i] for i in (3, 1, 0, 2)
    ]
    assert found.places.nbytes == 4 * 3 * 8
