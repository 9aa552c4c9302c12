"""Files that are damaged, incomplete, missing or not the official ones: one clear line each."""

import gzip
import hashlib

import numpy as np
import pytest

from l2ljax.data import load
from l2ljax.errors import DataError
from test_data_official import (
    OFFICIAL,
    archives,
    idx,
    mat,
    members,
    publish,
    tiny_counts,
    write,
)

__all__ = ["tiny_counts"]  # a fixture, used by every test here

# These sets are too small to have an image of every class.
pytestmark = pytest.mark.filterwarnings("ignore:.* images is of the class")


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_wrong_checksum_is_refused_before_parsing(tmp_path, monkeypatch, name):
    files = archives(name)
    publish(monkeypatch, files)
    path, data = next(iter(files.items()))
    bad = data[:-1] + bytes([data[-1] ^ 1])
    write(tmp_path, {**files, path: bad})
    good, found = (hashlib.sha256(part).hexdigest() for part in (data, bad))
    with pytest.raises(DataError) as info:
        load(name, data_dir=tmp_path)
    line = str(info.value)
    assert line.startswith(f"{tmp_path / path}: expected SHA-256 {good}, found {found}: put a good")
    assert f"http://127.0.0.1:9/{path}" in line


def test_a_truncated_archive_is_refused_by_its_size(tmp_path, monkeypatch):
    publish(monkeypatch, files := archives("cifar10"))
    (path, data) = next(iter(files.items()))
    write(tmp_path, {path: data[:-100]})
    with pytest.raises(
        DataError, match=f"{path}: expected {len(data)} bytes, found {len(data) - 100}"
    ):
        load("cifar10", data_dir=tmp_path)


def test_an_unreadable_archive_and_an_incomplete_one_are_named(tmp_path, monkeypatch):
    path = "cifar-100-binary.tar.gz"
    for data, line in (
        (b"no archive", "cannot be unpacked: not a gzip file"),
        (gzip.compress(bytes(10240)), "expected to contain cifar-100-binary/train.bin, cifar"),
    ):
        publish(monkeypatch, {path: data})
        with pytest.raises(DataError, match=f"{path}: {line}"):
            load("cifar100", data_dir=write(tmp_path, {path: data}))


DAMAGE = [
    (
        "cifar10",
        "cifar-10-batches-bin/data_batch_2.bin",
        lambda d: d[:-9],
        r"whole records of 3073 ",
    ),
    ("cifar10", "cifar-10-batches-bin/data_batch_2.bin", lambda d: b"", r"found 0 bytes"),
    (
        "cifar10",
        "cifar-10-batches-bin/test_batch.bin",
        lambda d: b"\x0a" + d[1:],
        r"labels must be 0",
    ),
    (
        "cifar100",
        "cifar-100-binary/train.bin",
        lambda d: d[:1] + b"\x64" + d[2:],
        r"0 to 99, found",
    ),
    (
        "cifar100",
        "cifar-100-binary/test.bin",
        lambda d: d + b"\0",
        r"whole records of 3074 bytes, ",
    ),
    ("mnist", "train-images-idx3-ubyte", lambda d: d[:-1], r"expected 15696 bytes for 20 items, "),
    (
        "mnist",
        "train-labels-idx1-ubyte",
        lambda d: b"\x1f\x8b" + d[2:],
        r"found 28 bytes that begin 1f",
    ),
    ("mnist", "t10k-images-idx3-ubyte", lambda d: d[:3], r"begins 00 00 08 03, found 3 bytes"),
    (
        "mnist",
        "t10k-labels-idx1-ubyte",
        lambda d: d[:-1] + b"\x0c",
        r"labels must be 0 to 9, found",
    ),
    ("mnist", "t10k-labels-idx1-ubyte", lambda d: idx(np.zeros(4)), r"4 labels for 5 images"),
    (
        "mnist",
        "t10k-images-idx3-ubyte",
        lambda d: idx(np.zeros((5, 9, 9))),
        r"expected 28x28 images",
    ),
    ("svhn", "test_32x32.mat", lambda d: d[:-50], r"not a readable .mat file"),
    ("svhn", "test_32x32.mat", lambda d: b"x" * 500, r"not a readable .mat file"),
    ("svhn", "test_32x32.mat", lambda d: mat(np.zeros((4, 32, 32, 3)), np.ones(4)), r"X of uint8"),
    (
        "svhn",
        "test_32x32.mat",
        lambda d: mat(np.zeros((1, 32, 32, 3), "u1"), np.array([11])),
        "1 to 10",
    ),
]


@pytest.mark.parametrize("name, path, damage, line", DAMAGE, ids=range(len(DAMAGE)))
def test_damaged_files_are_named_with_expected_and_found(
    tmp_path, monkeypatch, name, path, damage, line
):
    files = members(name)
    files[path] = damage(files[path])
    publish(monkeypatch, files)
    with pytest.raises(DataError, match=line) as info:
        load(name, data_dir=write(tmp_path, files))
    assert str(info.value).startswith(str(tmp_path / path)) and "\n" not in str(info.value)


def test_an_incomplete_folder_names_what_is_missing(tmp_path):
    files = members("cifar10")
    del files["cifar-10-batches-bin/data_batch_3.bin"]
    with pytest.raises(
        DataError, match="cifar-10-batches-bin: incomplete, data_batch_3.bin missing"
    ):
        load("cifar10", data_dir=write(tmp_path, files))


def test_missing_files_are_listed_with_size_address_and_place(tmp_path, monkeypatch):
    publish(monkeypatch, files := archives("mnist"))
    write(tmp_path / "mnist", dict(list(files.items())[:2]))
    with pytest.raises(DataError) as info:
        load("mnist", data_dir=tmp_path, download=False)
    line = str(info.value)
    name, data = list(files.items())[2]
    assert f"{name} ({len(data):,} bytes, http://127.0.0.1:9/{name})" in line
    assert "train-images" not in line and f"put them into {tmp_path / 'mnist'}" in line


def test_files_need_a_folder(tmp_path):
    with pytest.raises(DataError, match="cifar10: data_dir is needed"):
        load("cifar10")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: data_dir must be a folder"):
        load("cifar10", data_dir=tmp_path / "file")
