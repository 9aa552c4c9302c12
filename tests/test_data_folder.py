"""Pictures in folders: one folder a class, decoded when they are needed, brought to one size."""

import numpy as np
import pytest
from PIL import Image

from l2ljax.data import Images, load
from l2ljax.errors import DataError

CLASSES = ("ant", "bee", "cat")


def picture(label, i, size=(12, 10), mode="RGB"):
    """Of height 10 and width 12, its colour that of the class."""
    rng = np.random.default_rng([label, i])
    image = rng.integers(0, 60, (size[1], size[0], 3), "uint8")
    image[..., label] += 150
    return Image.fromarray(image).convert(mode)


def tree(root, splits=("train", "test"), n=6, suffix=".png", **how):
    for split in splits:
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                picture(label, i, **how).save(folder / f"{i}{suffix}")
    return root


def test_every_sub_folder_is_a_class_and_nothing_is_read_before_it_is_needed(tmp_path):
    tree(tmp_path)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no picture")
    (tmp_path / "train" / ".cache").mkdir()
    nested = tmp_path / "train" / "bee" / "more"
    nested.mkdir()
    picture(1, 99).save(nested / "x.PNG")
    data = load(f"folder:{tmp_path}", val_size=3)
    assert data.class_names == CLASSES and data.num_classes == 3
    assert isinstance(data.x_train, Images) and isinstance(data.x_test, np.ndarray)
    assert data.x_train.shape == (16, 10, 12, 3) and data.x_train.dtype == np.uint8
    assert np.bincount(data.y_val).tolist() == [1, 1, 1] and data.x_test.shape[0] == 18
    for x, y in ((data.x_train[:], data.y_train), (data.x_test, data.y_test)):
        assert (x.mean((1, 2)).argmax(-1) == y).all(), "the colour is that of the label"
    assert (data.x_test[7] == np.asarray(picture(1, 1))).all() and data.y_test[7] == 1


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".webp"])
def test_any_format_that_pillow_reads_will_do(tmp_path, suffix):
    data = load(f"folder:{tree(tmp_path, suffix=suffix, n=3)}", val_size=3)
    assert (data.x_train[:].mean((1, 2)).argmax(-1) == data.y_train).all()


def test_the_shorter_side_is_resized_and_the_centre_cropped(tmp_path):
    tree(tmp_path, size=(12, 10))
    picture(0, 7, size=(9, 30)).save(tmp_path / "train" / "ant" / "tall.png")
    with pytest.raises(
        DataError, match=r"tall.png is an image uint8 \[30, 9, 3\].*give --image_siz"
    ):
        load(f"folder:{tmp_path}", val_size=0).x_train[:]
    data = load(f"folder:{tmp_path}", val_size=0, image_size=5)
    assert data.x_train.shape == (19, 5, 5, 3) and data.x_test.shape == (18, 5, 5, 3)
    wide = picture(0, 0).resize((6, 5), Image.Resampling.BILINEAR).crop((0, 0, 5, 5))
    tall = (
        picture(0, 7, size=(9, 30)).resize((5, 16), Image.Resampling.BILINEAR).crop((0, 6, 5, 11))
    )
    assert (data.x_test[0] == np.asarray(wide)).all()
    assert any((image == np.asarray(tall)).all() for image in data.x_train[:])
    large = load(f"folder:{tmp_path}", val_size=0, image_size=32)
    assert large.x_train[:2].shape == (2, 32, 32, 3)


def test_most_training_pictures_say_whether_the_set_is_grey(tmp_path):
    tree(tmp_path / "grey", mode="L")
    picture(1, 9).save(tmp_path / "grey" / "train" / "bee" / "9.png")
    grey = load(f"folder:{tmp_path / 'grey'}", val_size=3)
    assert grey.x_train.shape == (16, 10, 12, 1) and len(grey.mean) == 1
    tree(tmp_path / "colour", mode="P")
    for i, mode in enumerate(("L", "1", "LA", "RGBA", "CMYK")):
        path = tmp_path / "colour" / "train" / "bee"
        picture(1, i, mode="L" if mode == "LA" else mode).convert(mode).save(
            path / f"mode-{mode}{'.jpg' if mode == 'CMYK' else '.png'}"
        )
    colour = load(f"folder:{tmp_path / 'colour'}", val_size=3)
    assert colour.x_train[:].shape == (20, 10, 12, 3)


def test_val_is_the_validation_split_beside_test_and_the_test_set_without_it(tmp_path):
    both = load(f"folder:{tree(tmp_path / 'both', ('train', 'val', 'test'))}")
    assert len(both.x_train) == len(both.x_val) == len(both.x_test) == 18
    with pytest.warns(UserWarning, match="no folder test: val is the test set"):
        alone = load(f"folder:{tree(tmp_path / 'alone', ('train', 'val'))}", val_size=3)
    assert (len(alone.x_train), len(alone.x_val), len(alone.x_test)) == (15, 3, 18)


def test_a_folder_that_cannot_be_used_gets_one_line(tmp_path):
    def broken(name, change):
        change(tree(tmp_path / name, n=2))
        return tmp_path / name

    def add(path, data=b""):
        def change(root):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data) if data else (root / path).mkdir()

        return change

    deep = Image.fromarray(np.full((10, 12), 999, np.uint16))
    cases = [
        (lambda root: (root / "train").rename(root / "tr"), "expected the folders train/CLASS and"),
        (
            lambda root: (root / "test").rename(root / "tests"),
            "expected a folder test, or val, bes",
        ),
        (add("train/dog"), "train/dog: this class has no picture"),
        (add("test/dog"), "test: the classes dog are not among those of .*/train"),
        (
            add("train/bee/x.png", b"no picture"),
            "bee/x.png: cannot be read as a picture: cannot id",
        ),
        (lambda root: deep.save(root / "train" / "bee" / "x.png"), "x.png: a picture of mode I;16"),
    ]
    for i, (change, line) in enumerate(cases):
        with pytest.raises(DataError, match=line) as info:
            load(f"folder:{broken(str(i), change)}", val_size=0, image_size=8).x_train[:]
        assert "\n" not in str(info.value)
    (tmp_path / "none" / "train").mkdir(parents=True)
    (tmp_path / "none" / "test").mkdir()
    with pytest.raises(DataError, match="none/train: expected a sub-folder for every class"):
        load(f"folder:{tmp_path / 'none'}")
    cut = tree(tmp_path / "cut", n=2)
    path = cut / "train" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match="cat/1.png: cannot be read as a picture: "):
        load(f"folder:{cut}", val_size=0).x_train[:]
