"""Fetching official archives with tensorflow_datasets' DownloadManager, its URLs and checksums.

The one surprising thing: the manager retries for three minutes before it admits that there is no
network, so each server is asked for the file's head first, once and briefly.
"""

import os
import pathlib
import tempfile
from collections.abc import Mapping

from l2ljax.data.official import Known
from l2ljax.errors import DataError

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
