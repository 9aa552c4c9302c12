"""A user's own arrays, `npz:PATH` with x_train, y_train, x_test, y_test, checked before use.

Images are [N, H, W, C], or [N, H, W] for grey ones; uint8, or floats in [0, 1]. Labels are
integers from 0 on without a gap; the number of classes is the largest training label plus one.
"""

import pathlib
import zipfile
import zlib

import numpy as np

from l2ljax import gate
from l2ljax.data.dataset import Arrays
from l2ljax.errors import DataError, InputError

KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: pathlib.Path) -> Arrays:
    """The four arrays of a file, or an error that says which of them cannot be used and why."""
    try:
        return Arrays(*checked(read_arrays(path)))
    except DataError:
        raise
    except InputError as error:
        raise DataError(f"{path}: {error}") from error


def checked(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Images as uint8 or float32 [N, H, W, C], labels as int32, in the order of KEYS."""
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        x = x[..., None] if x.ndim == 3 else x
        gate.check_images(x, f"x_{split}")
        if gate.looks_nchw(x.shape):
            raise InputError(
                f"x_{split} is {list(x.shape)}, which looks like NCHW: store NHWC, "
                "x.transpose(0, 2, 3, 1)"
            )
        if x.dtype == np.uint8 and x.max() == 1:
            raise InputError(f"x_{split} is uint8 and reaches to 1, of 255: store floats in [0, 1]")
        gate.labels(y, len(x), name=f"y_{split}")
        dtype = np.uint8 if x.dtype == np.uint8 else np.float32
        arrays[f"x_{split}"] = np.ascontiguousarray(x, dtype)
        arrays[f"y_{split}"] = y.astype(np.int32)
    x_train, y_train, x_test, y_test = result = [arrays[key] for key in KEYS]
    if x_train.shape[1:] != x_test.shape[1:]:
        shapes = x_train.shape[1:], x_test.shape[1:]
        raise InputError("x_train has images of shape {}, x_test of {}".format(*shapes))
    if x_train.dtype != x_test.dtype:
        types = f"x_train is {x_train.dtype}, x_test {x_test.dtype}"
        raise InputError(f"{types}: give both in one scale")
    found = np.unique(y_train)
    if found[-1] != len(found) - 1:
        gap = int(np.flatnonzero(found != np.arange(len(found)))[0])
        raise InputError(
            f"y_train reaches to {found[-1]} and has no image of class {gap}: number the classes "
            "from 0 without a gap"
        )
    if y_test.max() > found[-1]:
        raise InputError(f"y_test has the label {y_test.max()}, y_train none above {found[-1]}")
    return result


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays by key; pickled ones are refused, never loaded."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not an npz file (numpy.savez writes one): no zip archive")
    try:
        with np.load(path, allow_pickle=False) as content:
            if missing := [key for key in KEYS if key not in content.files]:
                found = ", ".join(content.files) or "nothing"
                raise DataError(f"{path}: {', '.join(missing)} missing, found {found}")
            return {key: read_array(path, content, key) for key in KEYS}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise DataError(f"{path}: damaged npz file: {error}") from error


def read_array(path: pathlib.Path, content: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    """One array; NumPy says ValueError for a pickled one and for a damaged header."""
    try:
        return content[key]
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: {key} is not a plain array of numbers: {reason}") from error
