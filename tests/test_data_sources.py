"""A user's own data: items on demand, functions of batches, arrays; one line for what is wrong."""

import pathlib
import re
import threading
import weakref
from typing import Annotated

import numpy as np
import pytest
from PIL import Image

from l2ljax.attacks import parse
from l2ljax.data import DATASETS, Dataset, Images, Stream, as_source, dataset, from_user, load
from l2ljax.errors import DataError, InputError
from l2ljax.evaluation.accuracy import robust

SHAPE, N, K = (4, 4, 3), 40, 4
X = np.random.default_rng(0).integers(0, 256, (N, *SHAPE)).astype(np.uint8)
Y = np.arange(N) % K
TEST = X[:8], Y[:8]


class Items:
    """(image, label) by index; `changes` are other items at some places."""

    def __init__(self, x=X, y=Y, changes=()):
        self.x, self.y, self.changes = x, y, dict(changes)
        self.read = []

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        self.read.append(i)
        return self.changes.get(i, (self.x[i], self.y[i]))


class Labelled(Items):
    """Items that say their labels."""

    labels = Y


def draw(seed, epoch, first, *, size=8):
    order = np.random.default_rng([seed, epoch]).permutation(N)
    for i in range(first, N // size):
        yield X[order[i * size : (i + 1) * size]], Y[order[i * size : (i + 1) * size]]


def pairs(x, y):
    return sorted((image.tobytes(), int(label)) for image, label in zip(x[:], y, strict=True))


def test_items_are_an_array_of_which_only_what_is_asked_for_is_read():
    items = Labelled()
    x, y = as_source(items)
    assert isinstance(x, Images) and x.shape == X.shape and x.dtype == np.uint8 and x.ndim == 4
    assert x.nbytes == X.nbytes and len(x) == N and (y == Y).all() and y.dtype == np.int32
    assert set(items.read) == {0}
    rows = np.array([[7, 3], [3, 11]])
    assert (x[rows] == X[rows]).all() and sorted(items.read[1:]) == [3, 3, 7, 11]
    assert (x[-3] == X[-3]).all() and (x[5:9] == X[5:9]).all() and (np.asarray(x) == X).all()
    chosen = x.select(np.array([9, 2, 5]))
    assert chosen.shape == (3, *SHAPE) and (chosen[1:] == X[[2, 5]]).all() and len(x) == N


def test_items_without_labels_are_read_once_and_not_kept():
    made, gone, alive = [], [], []

    class Counted(Items):
        def __getitem__(self, i):
            image = np.array(self.x[i])
            weakref.finalize(image, gone.append, i)
            made.append(i)
            alive.append(len(made) - len(gone))
            return image, self.y[i]

    y = np.repeat(Y, 50)
    x, labels = as_source(Counted(np.repeat(X, 50, 0), y))
    assert (labels == y).all() and len(x) == 50 * N and sorted(made[1:]) == list(range(50 * N))
    assert max(alive) <= x.threads + 4, f"{max(alive)} images of {50 * N} were alive at once"


def test_items_may_be_floats_grey_pillow_images_or_a_list():
    floats, _ = as_source(Items(X / 255))
    assert floats.dtype == np.float32 and np.allclose(floats[:], X / 255)
    grey, _ = as_source(Items(X[..., 0]))
    assert grey.shape == (N, 4, 4, 1)
    images, labels = as_source([(Image.fromarray(x), y) for x, y in zip(X, Y, strict=True)])
    assert (images[:] == X).all() and (labels == Y).all()


def test_items_are_read_from_as_many_threads_as_they_allow():
    class Watched(Labelled):
        def __getitem__(self, i):
            seen.add(threading.get_ident())
            return super().__getitem__(i)

    seen = set()
    source = Watched()
    source.threads = 1
    as_source(source)[0][:]
    assert seen == {threading.get_ident()}
    seen.clear()
    source.threads = 4
    as_source(source)[0][:]
    assert len(seen - {threading.get_ident()}) >= 1


def test_arrays_items_and_labelled_items_give_the_same_splits():
    own = from_user((X, Y, *TEST), "own", val_size=8)
    assert isinstance(own, Dataset) and own.num_classes == K and len(own.x_val) == 8
    assert (np.bincount(own.y_val) == 2).all() and own.class_names == ("0", "1", "2", "3")
    both = np.concatenate([own.x_train, own.x_val]), np.concatenate([own.y_train, own.y_val])
    assert pairs(*both) == pairs(X, Y)
    for train in (Items(), Labelled(), (X, Y)):
        other = from_user((train, TEST), "own", val_size=8)
        for name in ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"):
            assert (getattr(own, name)[:] == getattr(other, name)[:]).all(), name
        assert np.allclose([own.mean, own.std], [other.mean, other.std])
        assert isinstance(other.x_val, np.ndarray)
    few = from_user((Labelled(), TEST), "own", val_size=8, train_size=5)
    assert few.x_train.shape == (5, *SHAPE) and (few.x_val == own.x_val).all()


def test_a_dict_may_name_validation_classes_and_what_a_model_must_know():
    val = X[8:16], Y[8:16]
    more = {"class_names": list("abcd"), "mean": (0.5,) * 3, "std": (0.2,) * 3, "augment": "crop"}
    data = from_user({"train": Items(), "val": val, "test": TEST, **more}, "own")
    assert len(data.x_train) == N and pairs(data.x_val, data.y_val) == pairs(*val)
    assert data.class_names == tuple("abcd") and data.mean == (0.5,) * 3
    assert data.std == (0.2,) * 3 and data.augment == "crop"
    some = from_user({"train": Items(), "val": val, "test": TEST}, "own", val_size=4)
    assert len(some.x_val) == 4 and (np.bincount(some.y_val) == 1).all()
    keys = {"x_train": X, "y_train": Y, "x_val": val[0], "y_val": val[1]}
    same = from_user(keys | {"x_test": X, "y_test": Y}, "own")
    assert pairs(same.x_val, same.y_val) == pairs(*val)
    assert from_user(same, "own") is same
    with pytest.raises(DataError, match="own: val_size=9 must be between 0 and 8, its own split"):
        from_user({"train": Items(), "val": val, "test": TEST}, "own", val_size=9)


def test_mean_and_std_of_items_are_estimated_on_a_sample(monkeypatch):
    monkeypatch.setattr(dataset, "SAMPLE", 10)
    items = Labelled()
    data = from_user((items, TEST), "own", val_size=0)
    assert len(items.read) <= 11
    sample = data.x_train[np.linspace(0, N - 1, 10).astype(int)] / 255
    assert data.mean == pytest.approx(tuple(sample.mean((0, 1, 2))))


def test_a_large_test_set_stays_on_the_disk_and_is_attacked_all_the_same(monkeypatch):
    import jax
    import jax.numpy as jnp

    w = jax.random.normal(jax.random.key(0), (48, K))
    test = Labelled(X / np.float32(255))
    expected = from_user((Items(X / 255), Items(X / 255)), "own", val_size=0)
    monkeypatch.setattr(dataset, "WHOLE", 100)
    data = from_user((Items(X / 255), test), "own", val_size=0)
    assert isinstance(data.x_test, Images) and isinstance(expected.x_test, np.ndarray)
    how = {"eps": 0.1, "batch_size": 16}
    stood = [
        robust(jax.random.key(1), lambda x: jnp.reshape(x, (len(x), -1)) @ w, d.x_test, d.y_test,
               parse("fgsm"), **how)
        for d in (data, expected)
    ]  # fmt: skip
    assert (stood[0] == stood[1]).all() and 0 < len(test.read)


def test_a_stream_says_what_it_draws_or_is_measured():
    told, measured = Stream(draw, batches=5, num_classes=K), Stream(draw)
    for stream in (told, measured):
        assert (stream.batches, stream.num_classes, stream.batch_size) == (5, K, 8)
        assert stream.shape == X.shape and stream.dtype == np.uint8 and stream.nbytes == X.nbytes
    first = [x for x, _ in draw(0, 0, 0)]
    assert (told[:10] == np.concatenate(first)[:10]).all()
    data = from_user({"train": draw, "test": TEST, "val": TEST}, "own")
    assert data.num_classes == K and len(data.x_train) == len(data.y_train) == N
    assert pairs(data.x_train[:N], data.y_train[:N]) == pairs(X, Y)
    assert data.mean == pytest.approx(tuple((X / 255).mean((0, 1, 2))))
    shorter = Stream(lambda *where: draw(*where, size=12))  # three batches and a rest of four
    assert shorter.batches == 3


def drawing(change):
    """draw, its batch 2 changed."""

    def changed(seed, epoch, first):
        for i, batch in enumerate(draw(seed, epoch, first), first):
            yield change(*batch) if i == 2 else batch

    return changed


BAD_STREAMS = [
    (
        draw(0, 0, 0),
        r"train is a generator, which can be read only once: give a function \(seed, e",
    ),
    (iter([]), r"train is a list_iterator, which can be read only once"),
    (lambda seed: draw(seed, 0, 0), r"must take \(seed, epoch, first\): too many positional argu"),
    (lambda *where: None, r"returned a NoneType, no iterator of \(x, y\)"),
    (lambda *where: iter([]), r"the function of batches drew none in epoch 0"),
    (lambda *where: [X], r"batch 0 of epoch 0 is a ndarray: a batch is a pair"),
    (drawing(lambda x, y: (x[:5], y[:5])), r"batch 2 of epoch 0 has 5 images, the first had 8"),
    (drawing(lambda x, y: (x[:, :3], y)), r"batch 2 .* uint8 \[3, 4, 3\], the first one had uint8"),
    (drawing(lambda x, y: (x / 255, y)), r"batch 2 .* has images float32 .*, the first one had ui"),
    (drawing(lambda x, y: (x, y[:5])), r"batch 2 .*: y must be 8 class indices, one an image"),
    (drawing(lambda x, y: (x, y - 1)), r"batch 2 .*: y reaches from -1 to"),
    (drawing(lambda x, y: (x, y / 2)), r"batch 2 .*: y is float64: class indices are whole"),
    (drawing(lambda x, y: (x[0], y)), r"batch 2 .*: x must be images|y must be"),
    (
        lambda s, e, first: draw(s, e, 0),
        r"batch 1 of draw\(0, 0, 0\) is not the first of draw\(0, ",
    ),
]


def test_streams_that_cannot_be_used_get_one_line_that_says_what_to_do():
    for thing, line in BAD_STREAMS:
        with pytest.raises(DataError, match=line) as info:
            as_source(thing)
        assert "\n" not in str(info.value) and str(info.value).startswith("train")
    with pytest.raises(DataError, match="has the label 3 of 3 classes"):
        Stream(draw, batches=5, num_classes=3)
    with pytest.raises(InputError, match="batches=0 must be a whole number above 0"):
        Stream(draw, batches=0, num_classes=4)
    stream = Stream(draw)
    for index in (3, slice(1, 4), slice(None, None, 2), np.arange(3)):
        with pytest.raises(DataError, match=r"a stream of batches has first images x\[:n\]"):
            stream[index]
    ended = Stream(draw, batches=9, num_classes=K)
    with pytest.raises(DataError, match="epoch 0 ended after 5 batches of 9"):
        ended[:41]
    for sizes, line in (({"val_size": 3}, "give `val`"), ({"train_size": 3}, "cannot be taken")):
        with pytest.raises(DataError, match=line):
            from_user((stream, TEST), "own", **sizes)


BAD_ITEMS = [
    (7, X[0], r"train\[7\] is a ndarray: an item is \(image, label\)"),
    (7, (X[0], "cat"), r"train\[7\] has the label 'cat': class indices are whole numbers"),
    (7, (X[0], 1.5), r"train\[7\] has the label 1.5: class indices are whole numbers"),
    (7, (X[0], -1), r"the label of train\[7\] reaches from -1 to -1: classes count from 0"),
    (7, (X[0, :3], 1), r"train\[7\] is an image uint8 \[3, 4, 3\], the first one is uint8 \[4, 4,"),
    (7, (X[0] / 255, 1), r"train\[7\] is an image float32 \[4, 4, 3\], the first one is uint8"),
    (7, (X[0].astype(int), 1), r"train\[7\] is int64: pass uint8 pixels, or floats in \[0, 1\]"),
    (7, (X[0, 0, 0], 1), r"train\[7\] must be images \[N, H, W, C\]; its shape is \[1, 3\]"),
    (0, (X[0] / 2.0, 1), r"pixels of train\[0\] reach from .*: divide by 255, or pass uint8"),
    (0, (np.zeros((3, 8, 8), np.uint8), 1), r"train\[0\] is .*, which looks like NCHW: store NHWC"),
]


def test_items_that_cannot_be_used_are_named():
    for place, item, line in BAD_ITEMS:
        with pytest.raises(DataError, match=line) as info:
            as_source(Items(changes={place: item}))
        assert "\n" not in str(info.value)
        if place:  # where labels are known no item is read before it is needed
            x, _ = as_source(Labelled(changes={place: item}))
            assert len(x[:place]) == place
            try:
                x[:]
            except DataError as error:
                assert "train[7]" in str(error)
    short = Labelled()
    short.labels = Y[1:]
    things = [
        (short, "labels of train must be 40 class indices, one an image; it is .39."),
        ([], "train is empty"),
        (3, "train is a int, and no source of images: give arrays"),
        ("cifar", "train is a str, and no source of images: give arrays"),
        ({"a": 1}, "train is a dict, and no source of images: give arrays"),
    ]
    for thing, line in things:
        with pytest.raises(DataError, match=line):
            as_source(thing)


BAD_SETS = [
    (X, "own is a ndarray: a data set is a Dataset, four arrays"),
    ((X, Y, X), "own is a tuple of 3: a data set is a Dataset, four arrays"),
    ({"x_trian": X}, "own: unknown key 'x_trian': did you mean 'x_train'"),
    ({"x_train": X, "y_train": Y}, "own: neither test nor x_test and y_test are given"),
    ({"test": TEST}, "own: neither train nor x_train and y_train are given"),
    ({"x_train": X, "x_test": X, "y_test": Y}, "own: y_train is a NoneType: pass a NumPy"),
    ((Items(), draw), "own: test is a stream of batches: give arrays or items"),
    ((Items(), (X[:, :2], Y)), r"own: x_train has images of shape \(4, 4, 3\), x_test of \(2, 4"),
    ((Items(), (X / 255, Y)), "own: x_train is uint8, x_test float32: give both in one scale"),
    ((Items(), (X, Y + 1)), "own: y_test has the label 4, y_train none above 3"),
    ((Items(X, Y + 1), TEST), "own: y_train reaches to 4 and has no image of class 0: number"),
    ((Items(X, 0 * Y), (X, 0 * Y)), "own: all 36 training images are of the class 0: there is no"),
    (
        {"train": (X, Y), "test": TEST, "class_names": "ab"},
        "own: y_train has the label 3, and there are 2",
    ),
    ({"train": (X, Y), "test": TEST, "mean": (0.5,)}, "own: mean has 1 numbers, the images 3 chan"),
]


def test_sets_that_cannot_be_used_get_one_line_that_begins_with_their_name():
    for thing, line in BAD_SETS:
        with pytest.raises(DataError, match=f"^{line}") as info:
            from_user(thing, "own")
        assert "\n" not in str(info.value)
    finished = from_user((X, Y, *TEST), "own", val_size=4)
    with pytest.raises(DataError, match="own: a finished Dataset has its sizes"):
        from_user(finished, "own", val_size=4)


def stripes(*, noise: Annotated[float, "how much noise", ">= 0"] = 0.0):
    """A user's own data set."""
    x = np.clip(X / 255 + noise, 0, 1)
    return x, Y, x[:8], Y[:8]


def test_a_row_of_the_table_may_be_a_function_with_settings_of_its_own(monkeypatch):
    monkeypatch.setitem(DATASETS, "stripes", stripes)
    assert load("stripes", val_size=8).x_test.mean() == pytest.approx(X[:8].mean() / 255, abs=1e-5)
    bright = load("stripes", val_size=8, train_size=20, settings={"noise": 1.0})
    assert bright.x_test.min() == 1.0 and len(bright.x_train) == 20 and bright.name == "stripes"
    for settings, line in (
        ({"noies": 1.0}, "unknown setting of stripes 'noies': did you mean 'noise'"),
        ({"noise": -1.0}, "noise=-1.0 must not be negative"),
    ):
        with pytest.raises(InputError, match=line):
            load("stripes", settings=settings)
    with pytest.raises(DataError, match="digits has no settings of its own: noise"):
        load("digits", settings={"noise": 1.0})
    with pytest.raises(DataError, match="--image_size=32: the images of digits are of one size"):
        load("digits", image_size=32)


def test_the_page_about_data_runs_as_printed():
    page = (pathlib.Path(__file__).parent.parent / "docs" / "data.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "docs/data.md", "exec"), {"__name__": "page"})
