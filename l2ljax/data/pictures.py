"""Encoded pictures: decoded by Pillow, brought to one size, and read from a tree of folders.

    folder:PATH    PATH/train/CLASS/*.png and PATH/test/CLASS/*.png (jpeg, bmp, webp, ...)

A picture is resized, bilinearly and with Pillow's antialiasing, so that its shorter side has
`image_size` pixels, and the centre is cropped to a square, as torchvision's Resize and CenterCrop
do. Without `image_size` all pictures must have the size of the first one.
"""

import io
import pathlib
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from l2ljax.data.sources import Images
from l2ljax.errors import DataError

GREY = ("1", "L", "LA", "La")
"""Pillow's modes of pictures without colour."""

DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Modes of more than 8 bits, which Pillow would cut off at 255."""

LOOKED_AT = 200
"""Training pictures, evenly spread, whose modes say whether a set is grey."""


def decode(source: Any, where: str, channels: int, image_size: int | None) -> np.ndarray:
    """A file or bytes as uint8 [H, W, C]: grey for one channel, RGB for three, without alpha."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            if picture.mode in DEEP:
                raise DataError(
                    f"{where}: a picture of mode {picture.mode}: store 8 bits a channel"
                )
            if "transparency" in picture.info:
                picture = picture.convert("RGBA")
            picture = picture.convert("L" if channels == 1 else "RGB")
            if image_size is not None:
                picture = _fitted(picture, image_size)
            return np.asarray(picture).reshape(picture.height, picture.width, channels)
    except DataError:
        raise
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{where}: cannot be read as a picture: {reason}") from error


UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""What Pillow raises for damaged files; its own error is an OSError."""


def _fitted(picture: Any, size: int) -> Any:
    from PIL import Image

    width, height = picture.size
    short = min(width, height)
    if short != size:
        width, height = size * width // short, size * height // short
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def pictures(
    open_one: Callable[[int], Any],
    where: Callable[[int], str],
    n: int,
    channels: int,
    image_size: int | None,
    like: Images | None,
) -> Images:
    """n encoded pictures as `Images`; open_one: row -> a path, or the bytes.

    Without `image_size` all must have the shape of those of `like`, or of the first one.
    """

    def read(i: int) -> np.ndarray:
        return decode(open_one(i), where(i), channels, image_size)

    if image_size is not None:
        shape = image_size, image_size, channels
    else:
        shape = read(0).shape if like is None else like.image_shape
    hint = "give --image_size=N, to which all are resized and cropped"
    return Images(read, where, (n, *shape), hint=hint)


def read_folder(path: pathlib.Path, image_size: int | None = None) -> dict[str, Any]:
    """The splits `train`, `test` and, if it has one of its own, `val` of a tree of folders.

    Classes are the sub-folders of train, sorted by name. PATH/val is the test set where there is no
    PATH/test, which a warning says. The set is grey if most of LOOKED_AT training pictures are, and
    pictures of the other kind are converted.
    """
    if not (path / "train").is_dir():
        raise DataError(f"{path}: expected the folders train/CLASS and test/CLASS of pictures")
    names = _folders(path / "train")
    splits = {name: path / name for name in ("train", "test", "val") if (path / name).is_dir()}
    if "test" not in splits:
        if "val" not in splits:
            raise DataError(f"{path}: expected a folder test, or val, beside train")
        warnings.warn(f"{path}: no folder test: val is the test set", stacklevel=4)
        splits["test"] = splits.pop("val")
    channels, train, parts = 3, None, {}
    for split, folder in splits.items():
        files, labels = _listed(folder, names)
        if train is None:
            channels = _channels(files)

        def where(i: int, files: Sequence[pathlib.Path] = files) -> str:
            return str(files[i])

        x = pictures(files.__getitem__, where, len(files), channels, image_size, train)
        train = x if train is None else train
        parts[split] = x, labels
    return {**parts, "class_names": names}


def _folders(folder: pathlib.Path) -> tuple[str, ...]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if not names:
        raise DataError(f"{folder}: expected a sub-folder for every class, found none")
    return tuple(names)


def _listed(folder: pathlib.Path, names: Sequence[str]) -> tuple[list[pathlib.Path], np.ndarray]:
    """The picture files of a split, sorted within each class, and their labels."""
    from PIL import Image

    known = Image.registered_extensions()
    found = _folders(folder)
    if strange := [name for name in found if name not in names]:
        few = ", ".join(strange[:5]) + ", ..." * (len(strange) > 5)
        raise DataError(f"{folder}: the classes {few} are not among those of {folder.parent}/train")
    files, labels = [], []
    for label, name in enumerate(names):
        if name not in found:
            continue
        of_class = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in known)
        if not of_class:
            raise DataError(f"{folder / name}: this class has no picture")
        files += of_class
        labels += [label] * len(of_class)
    return files, np.array(labels, np.int32)


def _channels(files: Sequence[pathlib.Path]) -> int:
    """1 if most of the pictures that are looked at are grey, else 3."""
    from PIL import Image

    some = files[:: -(-len(files) // LOOKED_AT)]
    grey = 0
    for path in some:
        try:
            with Image.open(path) as picture:
                grey += picture.mode in (*GREY, *DEEP)
        except UNREADABLE as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{path}: cannot be read as a picture: {reason}") from error
    return 1 if 2 * grey > len(some) else 3
