"""A classifier of your own, of flax.linen or flax.nnx, with a setting of its own.

    python experiments/train.py --model=examples/own_net.py:Net --units=32
    python experiments/train.py --model=examples/own_net.py:NnxNet --hidden=32

The class gets `num_classes`, and of mean, std, dtype, dropout, remat, shape and rngs what its
signature names. What is annotated as below is a setting, with a flag and a line in --help. Images
come in [0, 1]. A `train` in `__call__` is true where BatchNorm uses the batch and dropout drops.
"""

from typing import Annotated

import flax.linen as nn
from flax import nnx


class Net(nn.Module):
    """One hidden layer with BatchNorm, in flax.linen."""

    num_classes: int
    units: Annotated[int, "units of Net's hidden layer", "> 0"] = 64

    @nn.compact
    def __call__(self, x, train: bool):
        """Images [B, H, W, C] to logits [B, num_classes]."""
        h = nn.Dense(self.units)(x.reshape(len(x), -1))
        h = nn.relu(nn.BatchNorm(use_running_average=not train)(h))
        return nn.Dense(self.num_classes)(h)


class NnxNet(nnx.Module):
    """The same in flax.nnx, which wants to know the image's shape and where to draw weights."""

    def __init__(
        self,
        num_classes: int,
        shape: tuple[int, int, int],
        rngs: nnx.Rngs,
        hidden: Annotated[int, "units of NnxNet's hidden layer", "> 0"] = 64,
    ):
        height, width, channels = shape
        self.first = nnx.Linear(height * width * channels, hidden, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, rngs=rngs)
        self.last = nnx.Linear(hidden, num_classes, rngs=rngs)

    def __call__(self, x):
        """Images [B, H, W, C] to logits [B, num_classes]."""
        return self.last(nnx.relu(self.norm(self.first(x.reshape(len(x), -1)))))
