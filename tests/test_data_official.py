"""The official layouts, written here from scratch in tiny: what is written must come back."""

import gzip
import hashlib
import io
import struct
import tarfile

import numpy as np
import pytest
from scipy.io import savemat

from l2ljax.data import DATASETS, load, official

TRAIN, TEST = 20, 5

# These sets are too small to have an image of every class.
pytestmark = pytest.mark.filterwarnings("ignore:.* images is of the class")


def arrays(name):
    """Random images and labels of a row's shape, every class label possible."""
    rng, row = np.random.default_rng(len(name)), DATASETS[name]
    x = rng.integers(0, 256, (TRAIN + TEST, *row.shape), "uint8")
    y = rng.integers(0, len(row.class_names), TRAIN + TEST)
    y[0], y[-1] = len(row.class_names) - 1, 0
    return x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]


def records(x, y, coarse):
    """CIFAR: label byte or two, then the red, the green and the blue plane."""
    out = []
    for image, label in zip(x, y, strict=True):
        out.append(bytes([7, label]) if coarse else bytes([label]))
        out += [image[:, :, channel].tobytes() for channel in range(3)]
    return b"".join(out)


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype("uint8").tobytes()


def mat(x, y):
    """SVHN: X [32, 32, 3, N] and y [N, 1] with 10 for the digit 0."""
    stream = io.BytesIO()
    y = np.where(y == 0, 10, y).astype("uint8")[:, None]
    savemat(stream, {"X": np.transpose(x, (1, 2, 3, 0)), "y": y}, do_compression=True)
    return stream.getvalue()


def members(name):
    """The official files of a tiny set by the names they have in the archive."""
    x, y, x_test, y_test = arrays(name)
    if name == "cifar10":
        folder, cuts = "cifar-10-batches-bin", [slice(4 * i, 4 * i + 4) for i in range(5)]
        files = {f"{folder}/data_batch_{i}.bin": (x[c], y[c]) for i, c in enumerate(cuts, 1)}
        files |= {f"{folder}/test_batch.bin": (x_test, y_test)}
        return {path: records(*part, coarse=False) for path, part in files.items()}
    if name == "cifar100":
        parts = {"train": (x, y), "test": (x_test, y_test)}
        return {f"cifar-100-binary/{k}.bin": records(*v, coarse=True) for k, v in parts.items()}
    if name == "svhn":
        return {"train_32x32.mat": mat(x, y), "test_32x32.mat": mat(x_test, y_test)}
    return {
        "train-images-idx3-ubyte": idx(x[..., 0]),
        "train-labels-idx1-ubyte": idx(y),
        "t10k-images-idx3-ubyte": idx(x_test[..., 0]),
        "t10k-labels-idx1-ubyte": idx(y_test),
    }


def archives(name):
    """The official archives of a tiny set: a tar.gz, gz files or the .mat files."""
    files = members(name)
    if name == "svhn":
        return files
    if "mnist" in name:
        return {f"{path}.gz": gzip.compress(data) for path, data in files.items()}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for path, data in {"../evil.txt": b"no", **files}.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    digits = name.removeprefix("cifar")
    return {f"cifar-{digits}-binary.tar.gz": stream.getvalue()}


def write(folder, files):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def publish(monkeypatch, files, url="http://127.0.0.1:9"):
    """Let these bytes be the official ones, and the tiny sizes the official counts."""
    known = {
        name: official.Known(f"{url}/{name}", len(data), hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    }
    monkeypatch.setattr(official, "known_files", lambda row: known)


@pytest.fixture(autouse=True)
def tiny_counts(monkeypatch):
    for name, row in list(DATASETS.items()):
        if row.archives:
            monkeypatch.setitem(DATASETS, name, row._replace(counts=(TRAIN, TEST)))


def assert_loads(name, data_dir):
    x, y, x_test, y_test = arrays(name)
    data = load(name, data_dir=data_dir, val_size=4, download=False)
    assert (data.x_train == x[:16]).all() and (data.x_val == x[16:]).all()
    assert (data.y_train == y[:16]).all() and (data.y_val == y[16:]).all()
    assert (data.x_test == x_test).all() and (data.y_test == y_test).all()
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int32
    assert data.x_train.flags.c_contiguous and data.x_test.flags.c_contiguous
    assert data.mean == DATASETS[name].mean and data.std == DATASETS[name].std


OFFICIAL = [name for name, row in DATASETS.items() if row.archives]


@pytest.mark.parametrize("subfolder", [True, False])
@pytest.mark.parametrize("name", OFFICIAL)
def test_archives_load_from_memory_and_leave_nothing(tmp_path, monkeypatch, name, subfolder):
    files = archives(name)
    publish(monkeypatch, files)
    write(tmp_path / name if subfolder else tmp_path, files)
    before = sorted(tmp_path.parent.rglob("*"))
    assert_loads(name, tmp_path)
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("name", [name for name in OFFICIAL if name != "svhn"])
def test_unpacked_folders_load(tmp_path, name):
    assert_loads(name, write(tmp_path, members(name)))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_unpacked_folder_itself_can_be_data_dir(tmp_path, name):
    path = next(iter(members(name)))
    assert_loads(name, write(tmp_path, members(name)) / path.split("/")[0])


def test_both_mnists_live_side_by_side_as_torchvision_leaves_them(tmp_path):
    write(tmp_path / "MNIST" / "raw", members("mnist"))
    write(tmp_path / "FashionMNIST" / "raw", members("fashion_mnist"))
    assert_loads("mnist", tmp_path)
    assert_loads("fashion_mnist", tmp_path)


def test_planes_become_channels_and_rows_stay_rows(tmp_path):
    files = members("cifar10")
    first = bytearray(files["cifar-10-batches-bin/data_batch_1.bin"])
    first[1 + 0 * 1024 + 5] = 11  # red, row 0, column 5
    first[1 + 2 * 1024 + 32 * 31 + 2] = 13  # blue, row 31, column 2
    files["cifar-10-batches-bin/data_batch_1.bin"] = bytes(first)
    data = load("cifar10", data_dir=write(tmp_path, files))
    assert data.x_train[0, 0, 5, 0] == 11 and data.x_train[0, 31, 2, 2] == 13


def test_the_digit_zero_of_svhn_is_class_zero(tmp_path, monkeypatch):
    publish(monkeypatch, files := archives("svhn"))
    data = load("svhn", data_dir=write(tmp_path, files))
    assert data.y_test[-1] == 0 and data.y_train.max() <= 9


def test_other_counts_than_the_official_ones_are_said(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "cifar10", DATASETS["cifar10"]._replace(counts=(50_000, 10_000)))
    with pytest.warns(
        UserWarning, match="has 20 training and 5 test images, the official set 50,000"
    ):
        load("cifar10", data_dir=write(tmp_path, members("cifar10")))


@pytest.mark.parametrize("name", OFFICIAL)
def test_tensorflow_datasets_knows_every_official_archive(name):
    known = official.known_files(DATASETS[name])
    assert known.keys() == DATASETS[name].archives.keys()
    assert all(k.size > 0 and len(k.sha256) == 64 and k.url.endswith(n) for n, k in known.items())
