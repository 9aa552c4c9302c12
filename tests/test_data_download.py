"""Downloads through the real DownloadManager, from a server of this test on this machine."""

import functools
import http.server
import threading

import pytest

from l2ljax.data import load
from l2ljax.errors import DataError
from test_data_official import archives, assert_loads, publish, tiny_counts, write

__all__ = ["tiny_counts"]  # a fixture, used by every test here

# These sets are too small to have an image of every class.
pytestmark = pytest.mark.filterwarnings("ignore:.* images is of the class")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_a_download_lands_whole_under_the_official_names(tmp_path, monkeypatch, served, name):
    folder, url = served
    files = archives(name)
    publish(monkeypatch, files, url)
    write(folder, files)
    data_dir = tmp_path / "data"
    load(name, data_dir=data_dir, progress=False)
    assert {p.name: p.read_bytes() for p in data_dir.rglob("*") if p.is_file()} == files
    assert sorted(data_dir.iterdir()) == [data_dir / name]
    for path in folder.iterdir():
        path.unlink()
    assert_loads(name, data_dir)


def test_only_what_is_missing_is_fetched(tmp_path, monkeypatch, served):
    folder, url = served
    files = archives("mnist")
    publish(monkeypatch, files, url)
    present, missing = dict(list(files.items())[:3]), dict(list(files.items())[3:])
    write(tmp_path / "data" / "mnist", present)
    write(folder, missing)
    load("mnist", data_dir=tmp_path / "data", progress=False)
    assert_loads("mnist", tmp_path / "data")


def test_a_bar_shows_the_progress(tmp_path, monkeypatch, served, capfd):
    folder, url = served
    publish(monkeypatch, files := archives("cifar100"), url)
    write(folder, files)
    load("cifar100", data_dir=tmp_path / "data")
    assert "Dl Size" in capfd.readouterr().err


@pytest.mark.parametrize("spoil", [lambda data: data[:-1] + b"?", None])
def test_a_failed_download_leaves_nothing_and_says_what_is_wanted(
    tmp_path, monkeypatch, served, spoil
):
    folder, url = served
    publish(monkeypatch, files := archives("cifar100"), url)
    (name, data) = next(iter(files.items()))
    if spoil:
        write(folder, {name: spoil(data)})
    with pytest.raises(DataError) as info:
        load("cifar100", data_dir=tmp_path / "data", progress=False)
    line = str(info.value)
    assert line.startswith(f"cifar100: download failed; wanted: {name} ({len(data):,} bytes, {url}")
    assert f"put it into {tmp_path / 'data' / 'cifar100'}" in line and "\n" not in line
    assert ("wrong checksum" if spoil else "404") in line
    assert not [p for p in tmp_path.glob("data/**/*") if p.is_file()]


def test_without_a_network_the_line_comes_at_once_and_no_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    publish(monkeypatch, archives("svhn"))  # port 9: nobody listens
    with pytest.raises(
        DataError, match="svhn: download failed; wanted: train_32x32.mat .*, test_32"
    ):
        load("svhn", data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()
