import numpy as np
import pytest

from l2ljax.data import DataError, load


def arrays(n=20, shape=(8, 8, 3), classes=4, dtype=np.uint8):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n + 6, *shape))
    x = x.astype(dtype) if dtype == np.uint8 else (x / 255).astype(dtype)
    y = np.arange(n + 6) % classes
    return dict(x_train=x[:n], y_train=y[:n], x_test=x[n:], y_test=y[n:])


def load_npz(tmp_path, content, **options):
    np.savez(tmp_path / "own.npz", **content)
    return load(f"npz:{tmp_path / 'own.npz'}", **options)


def test_bytes_come_back_as_they_are(tmp_path):
    content = arrays()
    data = load_npz(tmp_path, content, val_size=5)
    assert (np.concatenate([data.x_train, data.x_val]) == content["x_train"]).all()
    assert (data.x_test == content["x_test"]).all() and data.x_test.dtype == np.uint8
    assert data.y_val.tolist() == content["y_train"][-5:].tolist()
    assert data.num_classes == 4 and data.class_names == ("0", "1", "2", "3")
    assert data.mean == pytest.approx(tuple((data.x_train / 255).mean((0, 1, 2))))
    assert data.std == pytest.approx(tuple((data.x_train / 255).std((0, 1, 2))))


def test_floats_become_float32_and_keep_their_scale(tmp_path):
    content = arrays(dtype=np.float64)
    data = load_npz(tmp_path, content)
    assert data.x_train.dtype == np.float32 and len(data.x_val) == 2
    assert np.allclose(data.x_test, content["x_test"])
    assert data.mean == pytest.approx(tuple(data.x_train.mean((0, 1, 2))), rel=1e-5)


def test_grey_images_without_channel_get_one(tmp_path):
    assert load_npz(tmp_path, arrays(shape=(8, 8))).x_train.shape == (18, 8, 8, 1)


def test_a_constant_channel_is_not_divided_by_zero(tmp_path):
    content = arrays()
    content["x_train"][..., 1] = 51
    data = load_npz(tmp_path, content)
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
    (BYTE, edited("x_train", lambda x: x.astype(str)), r"x_train is <U3: expected uint8, or"),
    (BYTE, edited("x_train", lambda x: x.astype(complex)), r"x_train is complex128: expected"),
    (BYTE, edited("x_train", lambda x: x.astype(int)), r"is int64: expected uint8 \(astype"),
    (BYTE, edited("x_train", lambda x: x.astype(int) - 1), r"is int64: expected uint8, or floats"),
    (BYTE, edited("x_train", lambda x: x[:, 0, 0]), r"x_train has shape \(20, 3\): expected \[N,"),
    (
        BYTE,
        edited("x_test", lambda x: x[:, :4]),
        r"x_train has images of shape \(8, 8, 3\), x_test",
    ),
    (BYTE, edited("x_test", lambda x: x / 255), r"x_train is uint8, x_test float32: give both"),
    (BYTE, edited("x_train", lambda x: x[:0]), r"x_train has shape \(0, 8, 8, 3\)"),
    (BYTE, edited("y_test", lambda y: y[:0]), r"y_test is empty"),
    (BYTE, edited("y_train", lambda y: y[1:]), r"x_train has 20 images, y_train 19 labels"),
    (BYTE, edited("y_train", lambda y: y.astype(float)), r"y_train is float64: expected integers"),
    (BYTE, edited("y_train", lambda y: np.eye(4)[y].astype(int)), r"y_train has shape \(20, 4\)"),
    (BYTE, edited("y_train", lambda y: y - 1), r"y_train has labels from -1 to 2: expected 0"),
    (BYTE, edited("y_train", lambda y: y + 10**9), r"y_train has labels from 1000000000 to"),
    (BYTE, edited("y_test", lambda y: y + 9), r"y_test has the label 12, y_train none above 3"),
    (FLOAT, edited("x_train", spoilt(np.nan)), r"x_train has 1 NaN or infinite pixels"),
    (FLOAT, edited("x_test", spoilt(np.inf)), r"x_test has 1 NaN or infinite pixels"),
    (FLOAT, edited("x_train", lambda x: x * 255), r"from 0 to 255, not in \[0, 1\]: divide by 255"),
    (FLOAT, edited("x_train", lambda x: x - 0.5), r"from -0.5 to 0.5, not in \[0, 1\]$"),
]


@pytest.mark.parametrize("dtype, edit, line", BAD, ids=range(len(BAD)))
def test_unusable_arrays_get_one_line_that_names_file_and_array(tmp_path, dtype, edit, line):
    content = arrays(dtype=dtype)
    edit(content)
    with pytest.raises(DataError, match=line) as info:
        load_npz(tmp_path, content)
    assert str(info.value).startswith(f"{tmp_path / 'own.npz'}: ") and "\n" not in str(info.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="none.npz: no such file"):
        load(f"npz:{tmp_path / 'none.npz'}")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "own.npz").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="own.npz: not an npz file"):
        load(f"npz:{tmp_path / 'own.npz'}")


def test_a_damaged_file_is_refused(tmp_path):
    load_npz(tmp_path, arrays())
    path = tmp_path / "own.npz"
    data = bytearray(path.read_bytes())
    data[1000] ^= 255
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="own.npz: damaged npz file: Bad CRC"):
        load(f"npz:{path}")


def test_more_validation_images_than_there_are_is_refused(tmp_path):
    with pytest.raises(DataError, match="val_size=20 must be between 1 and 19"):
        load_npz(tmp_path, arrays(), val_size=20)
