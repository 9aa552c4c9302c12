import numpy as np
import pytest

from l2ljax.data import load
from l2ljax.errors import DataError


def arrays(n=20, shape=(8, 8, 3), classes=4, dtype=np.uint8):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n + 6, *shape))
    x = x.astype(dtype) if dtype == np.uint8 else (x / 255).astype(dtype)
    y = np.arange(n + 6) % classes
    return dict(x_train=x[:n], y_train=y[:n], x_test=x[n:], y_test=y[n:])


def load_npz(tmp_path, content, **options):
    np.savez(tmp_path / "own.npz", **content)
    return load(f"npz:{tmp_path / 'own.npz'}", **options)


def pairs(x, y):
    return sorted((image.tobytes(), int(label)) for image, label in zip(x, y, strict=True))


def test_bytes_come_back_as_they_are(tmp_path):
    content = arrays()
    data = load_npz(tmp_path, content, val_size=5)
    x, y = np.concatenate([data.x_train, data.x_val]), np.concatenate([data.y_train, data.y_val])
    assert x.dtype == np.uint8 and y.dtype == np.int32
    assert pairs(x, y) == pairs(content["x_train"], content["y_train"])
    assert (data.x_test == content["x_test"]).all() and data.x_test.dtype == np.uint8
    assert (data.y_test == content["y_test"]).all()
    assert data.num_classes == 4 and data.class_names == ("0", "1", "2", "3")
    assert data.mean == pytest.approx(tuple((data.x_train / 255).mean((0, 1, 2))))
    assert data.std == pytest.approx(tuple((data.x_train / 255).std((0, 1, 2))))


def test_floats_become_float32_and_keep_their_scale(tmp_path):
    content = arrays(dtype=np.float64)
    data = load_npz(tmp_path, content, val_size=4)
    assert data.x_train.dtype == np.float32 and len(data.x_val) == 4
    assert np.allclose(data.x_test, content["x_test"])
    assert data.mean == pytest.approx(tuple(data.x_train.mean((0, 1, 2))), rel=1e-5)


def test_grey_images_without_channel_get_one(tmp_path):
    data = load_npz(tmp_path, arrays(shape=(8, 8)), val_size=4)
    assert data.x_train.shape == (16, 8, 8, 1)


def test_arrays_that_are_sorted_by_label_give_every_split_every_class(tmp_path):
    """Of the last images validation would have one class, and training none of it."""
    n = np.array([100, 60, 30, 10])
    y = np.repeat(np.arange(4), n)
    x = np.arange(200, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    content = {"x_train": x, "y_train": y, "x_test": x[:9], "y_test": y[:9]}
    data = load_npz(tmp_path, content, val_size=40)
    assert np.abs(np.bincount(data.y_val, minlength=4) - n / 5).max() <= 1
    assert np.abs(np.bincount(data.y_train) - 4 * n / 5).max() <= 1
    mine, held = set(data.x_train[:, 0, 0, 0]), set(data.x_val[:, 0, 0, 0])
    assert len(mine) == 160 and len(held) == 40 and not mine & held
    few = load_npz(tmp_path, content, val_size=40, train_size=20)
    assert (few.x_val == data.x_val).all() and (few.x_train == data.x_train[:20]).all()
    assert np.abs(np.bincount(few.y_train, minlength=4) - n / 10).max() <= 1
    assert (np.diff(data.x_train[:, 0, 0, 0].astype(int)) < 0).sum() > 50, "shuffled within classes"


def test_the_split_of_ones_own_arrays_is_the_same_forever(tmp_path):
    y = np.repeat([0, 1, 2], 4)
    x = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    data = load_npz(tmp_path, {"x_train": x, "y_train": y, "x_test": x, "y_test": y}, val_size=3)
    assert data.x_val[:, 0, 0, 0].tolist() == [9, 0, 5]


def test_a_class_that_validation_lacks_is_said(tmp_path):
    with pytest.warns(UserWarning) as said:
        load_npz(tmp_path, arrays())
    (line,) = said
    assert "own.npz: none of the 2 validation images is of the class " in str(line.message)
    assert "(2 of 4 classes)" in str(line.message) and "\n" not in str(line.message)


def test_one_class_alone_is_refused(tmp_path):
    content = arrays()
    content["y_train"], content["y_test"] = np.zeros(20, int), np.zeros(6, int)
    with pytest.raises(DataError, match="all 18 training images are of the class 0: there is noth"):
        load_npz(tmp_path, content)


def test_a_constant_channel_is_not_divided_by_zero(tmp_path):
    content = arrays()
    content["x_train"][..., 1] = 51
    data = load_npz(tmp_path, content, val_size=4)
    assert data.mean[1] == pytest.approx(0.2) and data.std[1] == 1.0


def edited(key, change):
    def edit(content):
        content[key] = change(content[key])

    return edit


def spoilt(value):
    def change(x):
        x[0, 0, 0, 0] = value
        return x

    return change


FLOAT, BYTE = np.float32, np.uint8
BAD = [
    (BYTE, lambda c: c.pop("y_test"), r"y_test missing, found x_train, y_train, x_test"),
    (BYTE, edited("x_train", lambda x: x.astype(object)), r"x_train is not a plain array"),
    (BYTE, edited("x_train", lambda x: x.astype(str)), r"x_train is <U3: pass uint8 pixels, or"),
    (
        BYTE,
        edited("x_train", lambda x: x.astype(complex)),
        r"x_train is complex128: pass uint8 pix",
    ),
    (BYTE, edited("x_train", lambda x: x.astype(int)), r"x_train is int64: pass uint8 pixels"),
    (BYTE, edited("x_train", lambda x: x.astype(int) - 1), r"x_train is int64: pass uint8 pixels"),
    (
        BYTE,
        edited("x_train", lambda x: x[:, 0, 0]),
        r"x_train must be images \[N, H, W, C\]; its shape is \[20, 3\]",
    ),
    (
        BYTE,
        edited("x_test", lambda x: x[:, :4]),
        r"x_train has images of shape \(8, 8, 3\), x_test",
    ),
    (BYTE, edited("x_test", lambda x: x / 255), r"x_train is uint8, x_test float32: give both"),
    (
        BYTE,
        edited("x_train", lambda x: x[:0]),
        r"x_train holds no pixel: its shape is \[0, 8, 8, 3\]",
    ),
    (
        BYTE,
        edited("y_test", lambda y: y[:0]),
        r"y_test must be 6 class indices, one an image; it is \[0\]",
    ),
    (BYTE, edited("y_train", lambda y: y[1:]), r"y_train must be 20 class indices, one an image"),
    (
        BYTE,
        edited("y_train", lambda y: y.astype(float)),
        r"y_train is float64: class indices are whole",
    ),
    (
        BYTE,
        edited("y_train", lambda y: np.eye(4)[y].astype(int)),
        r"y_train has the shape \[20, 4\], as one-hot labels have",
    ),
    (
        BYTE,
        edited("y_train", lambda y: y - 1),
        r"y_train reaches from -1 to 2: classes count from 0",
    ),
    (
        BYTE,
        edited("y_train", lambda y: y + 10**9),
        r"y_train reaches to 1000000003 and has no image of class 0",
    ),
    (BYTE, edited("y_test", lambda y: y + 9), r"y_test has the label 12, y_train none above 3"),
    (
        BYTE,
        edited("y_train", lambda y: y + 1),
        r"y_train reaches to 4 and has no image of class 0: number the classes from 0 without",
    ),
    (BYTE, edited("y_train", lambda y: np.where(y == 2, 5, y)), r"5 and has no image of class 2"),
    (FLOAT, edited("x_train", spoilt(np.nan)), r"x_train holds NaN: every pixel must be a number"),
    (
        FLOAT,
        edited("x_test", spoilt(np.inf)),
        r"pixels of x_test reach from 0 to inf: every pixel must",
    ),
    (
        FLOAT,
        edited("x_train", lambda x: x * 255),
        r"pixels of x_train reach from 0 to 255: divide by 255",
    ),
    (
        FLOAT,
        edited("x_train", lambda x: x - 0.5),
        r"pixels of x_train reach from -0.5 to 0.5 and must lie in \[0, 1\]",
    ),
]


@pytest.mark.parametrize("dtype, edit, line", BAD, ids=range(len(BAD)))
def test_unusable_arrays_get_one_line_that_names_file_and_array(tmp_path, dtype, edit, line):
    content = arrays(dtype=dtype)
    edit(content)
    with pytest.raises(DataError, match=line) as info:
        load_npz(tmp_path, content)
    line = str(info.value).removeprefix("npz:")
    assert line.startswith(f"{tmp_path / 'own.npz'}: ") and "\n" not in line


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="none.npz: no such file"):
        load(f"npz:{tmp_path / 'none.npz'}")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "own.npz").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="own.npz: not an npz file"):
        load(f"npz:{tmp_path / 'own.npz'}")


def test_a_damaged_file_is_refused(tmp_path):
    load_npz(tmp_path, arrays(), val_size=4)
    path = tmp_path / "own.npz"
    data = bytearray(path.read_bytes())
    data[1000] ^= 255
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="own.npz: damaged npz file: Bad CRC"):
        load(f"npz:{path}")


def test_more_validation_images_than_there_are_is_refused(tmp_path):
    with pytest.raises(DataError, match="val_size=20 must be between 0 and 19"):
        load_npz(tmp_path, arrays(), val_size=20)
