"""A user's own arrays, `npz:PATH` with x_train, y_train, x_test, y_test, checked before use.

Images are [N, H, W, C], or [N, H, W] for grey ones; uint8, or floats in [0, 1]. Labels are
integers from 0 on; the number of classes is the largest training label plus one.
"""

import pathlib
import zipfile
import zlib

import numpy as np

from l2ljax.data.dataset import Arrays, DataError

KEYS = ("x_train", "y_train", "x_test", "y_test")
MOST_CLASSES = 65_536  # a stray label must not become a last layer of a billion rows


def read_npz(path: pathlib.Path) -> Arrays:
    """The four arrays of a file, or an error that says which of them cannot be used and why."""
    arrays = read_arrays(path)
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        arrays[f"x_{split}"] = check_images(f"{path}: x_{split}", x)
        arrays[f"y_{split}"] = check_labels(f"{path}: y_{split}", y)
        if len(x) != len(y):
            raise DataError(f"{path}: x_{split} has {len(x)} images, y_{split} {len(y)} labels")
    result = Arrays(*(arrays[key] for key in KEYS))
    if result.x_train.shape[1:] != result.x_test.shape[1:]:
        raise DataError(
            f"{path}: x_train has images of shape {result.x_train.shape[1:]},"
            f" x_test of {result.x_test.shape[1:]}"
        )
    if result.x_train.dtype != result.x_test.dtype:
        raise DataError(
            f"{path}: x_train is {result.x_train.dtype}, x_test {result.x_test.dtype}:"
            " give both in one scale"
        )
    if result.y_test.max() > result.y_train.max():
        raise DataError(
            f"{path}: y_test has the label {result.y_test.max()},"
            f" y_train none above {result.y_train.max()}"
        )
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


def check_images(what: str, x: np.ndarray) -> np.ndarray:
    """NHWC as uint8, or as float32 in [0, 1]."""
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        bytes_ = x.dtype.kind in "iu" and x.size and 0 <= x.min() and x.max() <= 255
        hint = ' (astype("uint8")?)' if bytes_ else ""
        raise DataError(f"{what} is {x.dtype}: expected uint8{hint}, or floats in [0, 1]")
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or 0 in x.shape:
        raise DataError(f"{what} has shape {x.shape}: expected [N, H, W, C] or [N, H, W], N > 0")
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if not np.isfinite(x).all():
        raise DataError(f"{what} has {(~np.isfinite(x)).sum()} NaN or infinite pixels")
    if x.min() < 0 or x.max() > 1:
        hint = ": divide by 255?" if x.min() >= 0 and x.max() <= 255 else ""
        raise DataError(f"{what} has pixels from {x.min():g} to {x.max():g}, not in [0, 1]{hint}")
    return np.ascontiguousarray(x, np.float32)


def check_labels(what: str, y: np.ndarray) -> np.ndarray:
    """A vector of integers >= 0, as int32."""
    if y.dtype.kind not in "iu":
        raise DataError(f"{what} is {y.dtype}: expected integers")
    if y.ndim != 1:
        raise DataError(f"{what} has shape {y.shape}: expected [N]")
    if not len(y):
        raise DataError(f"{what} is empty")
    if y.min() < 0 or y.max() >= MOST_CLASSES:
        raise DataError(
            f"{what} has labels from {y.min()} to {y.max()}:"
            f" expected 0 to {MOST_CLASSES - 1} at most"
        )
    return y.astype(np.int32)
