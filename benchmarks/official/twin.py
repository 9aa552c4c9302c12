# pyright: reportMissingImports=false
"""Bridge (a): a WideResNet in torch with the weights of ours, images NCHW in [0, 1].

    model = twin(theta, stats, mean=data.mean, std=data.std)

Submodules have the names of the Flax tree, so copying is a walk over it. What differs is said
outright: kernels HWIO become OIHW, dense ones are transposed, BatchNorm's eps is 1e-5 on both
sides, and the padding is size // 2 all around (SAME in JAX pads at the end alone at stride 2).
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from l2ljax.types import Tree

BN_EPS = 1e-5
"""The eps of `l2ljax.models.layers.batch_norm`."""

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "negative_slope": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
"""What torch calls the leaves of a Flax tree."""


class Block(nn.Module):
    """`models.residual.WideBlock` in eval mode; the shortcut takes the activated input."""

    def __init__(self, channels: int, features: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.conv1 = _conv(channels, features, 3, stride)
        self.bn2 = nn.BatchNorm2d(features, eps=BN_EPS)
        self.conv2 = _conv(features, features, 3, 1)
        narrow = stride == 1 and channels == features
        self.shortcut = None if narrow else _conv(channels, features, 1, stride)

    def forward(self, x):
        """x [B, c, H, W] -> [B, features, H / stride, W / stride]."""
        h = torch.relu(self.bn1(x))
        x = x if self.shortcut is None else self.shortcut(h)
        return x + self.conv2(torch.relu(self.bn2(self.conv1(h))))


class Twin(nn.Module):
    """`models.residual.WideResNet`; `widths` holds the channels of the stem and of every block."""

    def __init__(
        self,
        channels: int,
        stem: int,
        blocks: dict[str, int],
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))
        self.stem = _conv(channels, stem, 3, 1)
        self.order = list(blocks)
        width = stem
        for name, features in blocks.items():
            stride = 2 if name.endswith("block1") and not name.startswith("group1") else 1
            self.add_module(name, Block(width, features, stride))
            width = features
        self.bn = nn.BatchNorm2d(width, eps=BN_EPS)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        """x [B, c, H, W] in [0, 1] -> logits [B, classes]."""
        x = self.stem((x - self.mean) / self.std)
        for name in self.order:
            x = self.get_submodule(name)(x)
        return logits(self.head, torch.relu(self.bn(x)))


def logits(head: nn.Linear, x: Any) -> Any:
    """The pooled x through the head, in the head's own type: ours is not bfloat16 either."""
    with torch.autocast(x.device.type, enabled=False):
        return head(x.to(head.weight.dtype).mean((2, 3)))


def _conv(channels: int, features: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, features, size, stride, padding=size // 2, bias=False)


def twin(theta: Tree, stats: Tree, *, mean: Sequence[float], std: Sequence[float]) -> Twin:
    """The torch twin of a WideResNet, in eval mode and without gradients to its weights."""
    names = [name for name in theta if re.fullmatch(r"group\d_block\d+", name)]
    names.sort(key=lambda name: tuple(map(int, re.findall(r"\d+", name))))
    blocks = {name: theta[name]["conv2"]["kernel"].shape[-1] for name in names}
    channels, stem = theta["stem"]["kernel"].shape[2:]
    model = Twin(channels, stem, blocks, theta["head"]["kernel"].shape[-1], mean, std)
    fill(model, theta, stats)
    return model.eval().requires_grad_(False)


def fill(model: nn.Module, theta: Tree, stats: Tree) -> None:
    """Every weight and statistic of a Flax tree into the torch module that has its names."""
    open_ = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    open_ -= {"mean", "std", *(n for n in open_ if n.endswith("num_batches_tracked"))}
    for name, value in named(theta, stats):
        _copy(model, name, value)
        open_.remove(name)
    if open_:
        raise ValueError(f"the tree has no {', '.join(sorted(open_))}")


def named(theta: Tree, stats: Tree) -> Iterator[tuple[str, Any]]:
    """torch's name and the Flax array of every leaf."""
    for *path, leaf, value in itertools.chain(_leaves(theta), _leaves(stats["batch_stats"])):
        yield ".".join([*path, LEAVES[leaf]]), value


def as_torch(value: Any) -> np.ndarray:
    """An array of Flax with torch's order of axes."""
    array = np.array(value, np.float32)
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim)))
    return np.ascontiguousarray(array.transpose(order))


def _leaves(tree: Tree) -> Iterator[tuple[Any, ...]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from ((name, *rest) for rest in _leaves(value))
        else:
            yield name, value


def _copy(model: nn.Module, name: str, value: Any) -> None:
    owner, _, leaf = name.rpartition(".")
    with torch.no_grad():
        kept = getattr(model.get_submodule(owner), leaf)
        kept.copy_(torch.from_numpy(as_torch(value)).reshape(kept.shape))
