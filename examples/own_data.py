"""Data of your own: as arrays, or as a source that makes or reads an image when it is asked for.

    python experiments/train.py --dataset=examples/own_data.py:blobs --contrast=0.5
    python experiments/train.py --dataset=examples/own_data.py:stripes

A data set is a function that returns (x_train, y_train, x_test, y_test), or (train, test), each of
them anything with a length and [i] -> (image, label). Images are [H, W, C], uint8 or floats in
[0, 1]. An annotated keyword is a setting. docs/data.md says what else there is.
"""

from typing import Annotated

import numpy as np


def blobs(
    *, contrast: Annotated[float, "how far a blob stands out of the noise", "(0, 1)"] = 0.5
) -> tuple[np.ndarray, ...]:
    """Bright squares in one of four corners: the corner is the label."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 1280)
    x = (1 - contrast) * rng.random((len(y), 8, 8, 1))
    for image, label in zip(x, y, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += contrast
    x = (255 * x).astype(np.uint8)
    return x[:1024], y[:1024], x[1024:], y[1024:]


class Stripes:
    """Images of horizontal or vertical stripes, each made when it is needed."""

    def __init__(self, n: int, seed: int):
        self.seed = seed
        self.labels = np.arange(n) % 2  # optional: without it every item is read once for its label

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        label = int(self.labels[i])
        image = np.random.default_rng([self.seed, i]).random((8, 8, 1), np.float32) / 2
        stripes = image if label else image.swapaxes(0, 1)
        stripes[::2] += 0.5
        return image, label


def stripes() -> tuple[Stripes, Stripes]:
    """A training source and a test source."""
    return Stripes(1024, seed=0), Stripes(256, seed=1)
