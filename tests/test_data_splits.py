import numpy as np
import pytest

from l2ljax.data import DATASETS, load
from l2ljax.errors import DataError


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def rows(x):
    return {image.tobytes() for image in x}


def test_digits_have_the_fixed_sizes_shape_and_type(digits):
    assert digits.x_train.shape == (1097, 8, 8, 1)
    assert digits.x_val.shape == (200, 8, 8, 1)
    assert digits.x_test.shape == (500, 8, 8, 1)
    assert digits.x_train.dtype == np.uint8 and digits.y_train.dtype == np.int32
    assert digits.num_classes == 10 and digits.augment == "none"


def test_digits_are_sklearns_rescaled_to_bytes(digits):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    ours = np.concatenate([digits.x_train, digits.x_val, digits.x_test]).reshape(-1, 64)
    labels = np.concatenate([digits.y_train, digits.y_val, digits.y_test])
    levels = np.array([round(v * 255 / 16) for v in range(17)])
    theirs = np.column_stack([levels[x.astype(int)], y])
    ours = np.column_stack([ours, labels])
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


def test_digits_splits_are_disjoint_and_balanced(digits):
    train, val, test = rows(digits.x_train), rows(digits.x_val), rows(digits.x_test)
    assert not train & val and not train & test and not val & test
    for y in (digits.y_train, digits.y_val, digits.y_test):
        assert np.bincount(y, minlength=10).min() >= 0.7 * len(y) / 10


def test_digits_split_is_the_same_forever(digits):
    # The results in results/ are for these very images.
    assert digits.y_train[:8].tolist() == [2, 8, 2, 6, 6, 7, 1, 9]
    assert digits.y_test[:8].tolist() == [0, 9, 6, 9, 8, 4, 5, 8]


def test_digits_test_split_does_not_depend_on_val_size(digits):
    other = load("digits", val_size=50)
    assert len(other.x_train) == 1247 and len(other.x_val) == 50
    assert (other.x_test == digits.x_test).all() and (other.x_val == digits.x_val[-50:]).all()


def test_moments_are_those_of_the_training_split_on_the_unit_scale(digits):
    pixels = digits.x_train / 255
    assert digits.mean == pytest.approx((pixels.mean(),))
    assert digits.std == pytest.approx((pixels.std(),))


@pytest.mark.parametrize("val_size", [-1, 1297, 5000])
def test_validation_must_leave_training_images_and_never_uses_the_test_set(val_size):
    with pytest.raises(DataError, match=r"val_size=.* between 0 and 1296: .* test set is never"):
        load("digits", val_size=val_size)


def test_without_validation_every_training_image_is_trained_on(digits):
    whole = load("digits", val_size=0)
    assert (len(whole.x_train), len(whole.x_val), len(whole.y_val)) == (1297, 0, 0)
    assert (whole.x_train[:1097] == digits.x_train).all()
    assert (whole.x_train[1097:] == digits.x_val).all() and (whole.x_test == digits.x_test).all()


def test_a_training_split_that_lacks_classes_is_said_and_one_of_one_class_refused():
    with pytest.warns(UserWarning, match=r"none of the 4 training images is of the class 0, 1, 3"):
        load("digits", train_size=4)
    with pytest.raises(DataError, match="digits: all 1 training images are of the class 2: "):
        load("digits", train_size=1)


def test_unknown_dataset_gets_the_nearest_name_and_the_list():
    with pytest.raises(DataError, match="unknown dataset 'cifar11': did you mean 'cifar10") as info:
        load("cifar11")
    assert all(name in str(info.value) for name in [*DATASETS, "npz:PATH"])


def test_rows_agree_with_their_own_shapes():
    for name, row in DATASETS.items():
        channels = row.shape[-1]
        assert row.mean is None or len(row.mean) == len(row.std) == channels, name
        assert len(set(row.class_names)) == len(row.class_names) == (100 if "100" in name else 10)


def test_train_size_keeps_the_first_training_images_and_nothing_else_changes(digits):
    few = load("digits", train_size=100)
    assert (few.x_train == digits.x_train[:100]).all() and len(few.y_train) == 100
    assert (few.x_val == digits.x_val).all() and (few.x_test == digits.x_test).all()
    for size in (0, 1098):
        with pytest.raises(DataError, match=f"train_size must lie in 1 .. 1097, not {size}"):
            load("digits", train_size=size)
