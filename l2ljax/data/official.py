"""A set of our table: from a prepared tree, the unpacked official files, the archive or a download.

They are looked for in this order. Where a better source is damaged the next one is not tried; the
user is told. What the official files must be is known from tensorflow_datasets. Nothing is
extracted to disk: a tar is read in memory, member by member. An archive is checked against size and
SHA-256 before one byte of it is parsed. Unpacked files have no published checksum, and the readers
check their structure instead. What is missing is fetched with the DownloadManager of
tensorflow_datasets, which retries for three minutes before it admits that there is no network: each
server is therefore asked for the file's head first, once and briefly.
"""

import gzip
import hashlib
import os
import pathlib
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from l2ljax.data.dataset import Arrays
from l2ljax.data.table import File, Row
from l2ljax.data.tree import find_tree, read_row
from l2ljax.errors import DataError


class Known(NamedTuple):
    """What tensorflow_datasets knows of an official file."""

    url: str
    size: int
    sha256: str


def known_files(row: Row) -> dict[str, Known]:
    """The official archives of a row by file name: the `url_infos` of its tfds builder."""
    import tensorflow_datasets as tfds

    infos = tfds.builder_cls(row.tfds).url_infos or {}
    return {
        str(info.filename): Known(url, int(info.size), info.checksum)
        for url, info in infos.items()
        if info.filename in row.archives
    }


def read(name: str, row: Row, root: pathlib.Path | None, download: bool, progress: bool) -> Arrays:
    """The arrays of a row from the first source in data_dir that has them, or downloaded."""
    if not row.archives:
        return row.read({})
    if root is None:
        raise DataError(f"{name}: data_dir is needed, the folder of its files")
    if tree := find_tree(row.tfds, root):
        where, arrays = tree, read_row(row, tree)
    else:
        where, arrays = root, _read_official(name, row, root, download, progress)
    counts = len(arrays.y_train), len(arrays.y_test)
    if 0 in counts:
        raise DataError(f"{where}: {name} has {counts[0]} training and {counts[1]} test images")
    if counts != row.counts:
        warnings.warn(
            f"{name} in {where} has {counts[0]:,} training and {counts[1]:,} test images, the"
            f" official set {row.counts[0]:,} and {row.counts[1]:,}",
            stacklevel=3,
        )
    return arrays


def _read_official(
    name: str, row: Row, root: pathlib.Path, download: bool, progress: bool
) -> Arrays:
    """From the official files, after fetching those that are missing if `download` allows it."""
    files, wanted = find_files(row, root)
    if wanted:
        known = known_files(row)
        missing = {archive: known[archive] for archive in wanted}
        if not download:
            described = describe(missing, root / name)
            raise DataError(f"{name}: not found in {root}; {described}")
        fetch(name, missing, root / name, progress)
        files, _ = find_files(row, root)
    return row.read(files)


def find_unpacked(
    row: Row, data_dir: pathlib.Path, members: Sequence[str]
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The unpacked files and the missing ones, of the first folder that holds any of them."""
    for folder in row.folders:
        for paths in (
            [data_dir / folder / member for member in members],
            [data_dir / folder / pathlib.Path(member).name for member in members],
        ):
            missing = [path for path in paths if not path.is_file()]
            if len(missing) < len(paths):
                return [path for path in paths if path not in missing], missing
    return [], []


def find_archive(row: Row, data_dir: pathlib.Path, archive: str) -> pathlib.Path | None:
    """The official archive in the first folder that holds it."""
    paths = (data_dir / folder / archive for folder in row.folders)
    return next((path for path in paths if path.is_file()), None)


def find_files(row: Row, data_dir: pathlib.Path) -> tuple[dict[str, File], list[str]]:
    """The files found, unpacked or in verified archives, and the archives still wanted."""
    files, wanted = {}, []
    for archive, members in row.archives.items():
        found, missing = [], []
        if members != (archive,):  # SVHN's .mat is archive and member at once: verified below
            found, missing = find_unpacked(row, data_dir, members)
        path = find_archive(row, data_dir, archive)
        if found and not missing:
            files |= {file.name: File(str(file), read_bytes(file)) for file in found}
        elif path:
            verify(path, known_files(row)[archive])
            files |= unpack(path, members)
        elif missing:
            names = ", ".join(file.name for file in missing)
            raise DataError(
                f"{missing[0].parent}: incomplete, {names} missing:"
                f" unpack {archive} there again, or put {archive} into {data_dir}"
            )
        else:
            wanted.append(archive)
    return files, wanted


def read_bytes(path: pathlib.Path) -> bytes:
    """The content of a file, or an error that names it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def verify(path: pathlib.Path, known: Known) -> None:
    """Size and SHA-256, or an error with both values and where to put a good file."""
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    advice = f"put a good copy of {known.url} there, or delete it to have it downloaded"
    if size != known.size:
        raise DataError(f"{path}: expected {known.size} bytes, found {size}: {advice}")
    if found != known.sha256:
        raise DataError(f"{path}: expected SHA-256 {known.sha256}, found {found}: {advice}")


def unpack(path: pathlib.Path, members: Sequence[str]) -> dict[str, File]:
    """The members of an archive by their own names, in memory; a file that is none, as it is."""
    try:
        if path.name.endswith(".tar.gz"):
            data = {}
            with tarfile.open(path, "r:gz") as tar:
                for entry in tar:
                    stream = tar.extractfile(entry) if entry.name in members else None
                    if stream:
                        data[entry.name] = stream.read()
        elif path.suffix == ".gz":
            with gzip.open(path) as stream:
                data = {members[0]: stream.read()}
        else:
            data = {members[0]: path.read_bytes()}
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: cannot be unpacked: {error}") from error
    if missing := [member for member in members if member not in data]:
        raise DataError(f"{path}: expected to contain {', '.join(missing)}, found {sorted(data)}")
    return {
        pathlib.Path(member).name: File(f"{path}:{member}" if path.name != member else str(path), d)
        for member, d in data.items()
    }


PATIENCE = 15.0  # seconds for a server's first answer


def describe(known: Mapping[str, Known], folder: pathlib.Path) -> str:
    """The files wanted with size and URL, and where to put them."""
    files = ", ".join(f"{name} ({k.size:,} bytes, {k.url})" for name, k in known.items())
    return f"wanted: {files}; put {'it' if len(known) == 1 else 'them'} into {folder}"


def fetch(name: str, known: Mapping[str, Known], folder: pathlib.Path, progress: bool) -> None:
    """Download the files into the folder under their official names, each whole or not at all."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.utils import Size

    tfds.display_progress_bar(progress)
    infos = {k.url: UrlInfo(Size(k.size), k.sha256, file) for file, k in known.items()}
    try:
        for k in known.values():
            requests.head(k.url, timeout=PATIENCE, allow_redirects=True)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            manager = tfds.download.DownloadManager(
                download_dir=scratch, url_infos=infos, dataset_name=name
            )
            for file, k in known.items():
                os.replace(manager.download(k.url), folder / file)
    except (OSError, tfds.download.DownloadError, NonMatchingChecksumError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name}: download failed; {describe(known, folder)} ({reason})") from error
